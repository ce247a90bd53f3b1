package price

import (
	"errors"
	"math"
	"math/big"
	"strings"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// What ParseRate and ParseMoney accept.
var (
	errDecimal = errors.New(`want a decimal with up to nine digits on each side, such as "2.50"`)
	errMoney   = errors.New(`want a decimal such as "5.00"`)
)

// ParseMoney reads a decimal such as "5.00": up to twenty digits before the point and up to fifteen
// behind it. It reads what [llm.Money.String] writes.
func ParseMoney(text string) (llm.Money, error) {
	whole, part, pointed := strings.Cut(text, ".")
	if whole == "" || len(whole) > 20 || len(part) > llm.MoneyDecimals || pointed && part == "" ||
		strings.ContainsFunc(whole+part, func(r rune) bool { return r < '0' || r > '9' }) {
		return llm.Money{}, errMoney
	}
	n, _ := new(big.Int).SetString(whole+part+strings.Repeat("0", llm.MoneyDecimals-len(part)), 10)
	low := new(big.Int).SetUint64(math.MaxUint64)
	return llm.Money{Hi: new(big.Int).Rsh(n, 64).Uint64(), Lo: low.And(low, n).Uint64()}, nil
}

// parseNano reads a decimal as a count of 1e-9. The largest, 999999999.999999999, fits.
func parseNano(text string) (uint64, error) {
	whole, part, pointed := strings.Cut(text, ".")
	if whole == "" || len(whole) > 9 || len(part) > 9 || pointed && part == "" {
		return 0, errDecimal
	}
	n := uint64(0)
	for _, c := range []byte(whole + part + strings.Repeat("0", 9-len(part))) {
		if c < '0' || c > '9' {
			return 0, errDecimal
		}
		n = n*10 + uint64(c-'0')
	}
	return n, nil
}
