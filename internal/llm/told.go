package llm

import (
	"math/big"
	"strconv"
	"strings"
)

// Told is what a provider said of an answer besides its counts, kept as it was said: nobody
// computes with it, but whoever looks for a difference wants to see it. The zero value is nothing said.
type Told struct {
	Total    int64  // tokens in all; 0: not said
	Cost     string // a decimal such as "0.00014775"; "": not said
	Currency string // of Cost, such as "USD"; "": not said, which among those who tell a cost means US dollars
}

const (
	maxCostDigits = 64 // on each side of the point: floats are told with all their digits
	mostCost      = 4  // digits before the point: no request costs ten thousand
)

// CostStands tells whether Cost is a decimal that some request may have cost, and Currency a word.
func (t Told) CostStands() bool {
	whole, part, pointed := strings.Cut(t.Cost, ".")
	return whole != "" && len(whole) <= mostCost && len(part) <= maxCostDigits && (part != "") == pointed && plainDigits(whole+part) &&
		len(t.Currency) <= 8 && !strings.ContainsFunc(t.Currency, func(r rune) bool { return r < 'A' || r > 'Z' })
}

// Dollars is Cost if it is in US dollars, to the fifteenth decimal; else nothing.
func (t Told) Dollars() Money {
	if !t.CostStands() || t.Currency != "" && t.Currency != "USD" {
		return Money{}
	}
	exact, ok := new(big.Rat).SetString(t.Cost)
	if !ok {
		return Money{}
	}
	scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(MoneyDecimals), nil)
	scaled := exact.Mul(exact, new(big.Rat).SetInt(scale))
	// Half up.
	twice := new(big.Int).Add(new(big.Int).Lsh(scaled.Num(), 1), scaled.Denom())
	femto := twice.Quo(twice, new(big.Int).Lsh(scaled.Denom(), 1))
	return Money{Lo: femto.Uint64()} // below 1e19 by mostCost
}

// Decimal is a number of JSON, such as 1.4775e-04, times ten to the power of shift, spelled without
// exponent: "0.00014775". No digit is lost. ok is false for what is no number, or negative, or would be absurdly long.
func Decimal(number string, shift int) (text string, ok bool) {
	mantissa, exponent, scientific := strings.Cut(strings.ToLower(number), "e")
	if scientific {
		power, err := strconv.Atoi(exponent)
		if err != nil || power < -maxCostDigits || power > maxCostDigits {
			return "", false
		}
		shift += power
	}
	whole, part, pointed := strings.Cut(mantissa, ".")
	if whole == "" || pointed && part == "" || !plainDigits(whole+part) || len(whole)+len(part) > maxCostDigits {
		return "", false
	}
	digits, behind := whole+part, len(part)-shift
	if behind < 0 {
		digits, behind = digits+strings.Repeat("0", -behind), 0
	}
	if short := behind + 1 - len(digits); short > 0 {
		digits = strings.Repeat("0", short) + digits
	}
	point := len(digits) - behind
	if whole = strings.TrimLeft(digits[:point], "0"); whole == "" {
		whole = "0"
	}
	if part = strings.TrimRight(digits[point:], "0"); part != "" {
		whole += "." + part
	}
	return whole, true
}

func plainDigits(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}
