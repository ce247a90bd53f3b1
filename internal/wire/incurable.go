package wire

import (
	"regexp"
	"slices"
	"strings"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// kindOf429 weighs what a refusal says, the surest first:
//
//  1. Codes for an empty purse: whatever else is said, waiting does not help.
//  2. A sentence of money or of a closed account. What is said of money in a sentence
//     that also names a second, a minute or an hour is a rate.
//  3. A request that is too large, by the sentence or by the numbers.
//  4. A period: a limit per minute or hour is waited out, one per day is a day's, and
//     a week or a month is no wait.
//  5. A hint to wait, or the words of a rate: it is waited out.
//  6. "Check your plan and billing", and advice to pay, where nothing else is said.
//  7. Nothing at all is waited out, too: status 429 means "too many requests".
//
// What is left said something that nobody understands: Unclear.
func kindOf429(e *errorObject, s *llm.Signal, hinted bool) ThrottleKind {
	codes := plainCodes(e)
	if incurableCode.MatchString(strings.Join(codes, "\n")) || slices.ContainsFunc(codes, incurable) { // some are sentences
		return Quota
	}
	words := plainWords(e.text())
	rest := planAndBilling.ReplaceAllString(words, " ")
	advice := false
	for _, sentence := range sentences(rest) {
		if advicePattern.MatchString(sentence) {
			advice = advice || payPattern.MatchString(sentence)
			continue
		}
		if incurable(sentence) {
			return Quota
		}
	}
	switch {
	case strings.Contains(words, "request too large"), s.Limit > 0 && s.Requested > s.Limit:
		return TooLarge
	case s.Period > mostDay, zeroLimit.MatchString(words):
		return Quota
	case s.Period > 0, s.Dimension != llm.None, hinted:
		return Curable
	case rest != words:
		return Quota
	case ratePattern.MatchString(strings.Join(codes, "\n")), ratePattern.MatchString(rest):
		return Curable
	case advice || payPattern.MatchString(rest):
		return Quota
	case saysNothing(rest) && len(codes) == 0:
		return Curable
	}
	return Unclear
}

// plainCodes are the codes and types of a body, less those that only repeat the status.
func plainCodes(e *errorObject) (codes []string) {
	for _, code := range append([]string{e.code, e.typ}, e.codes...) {
		words := strings.TrimSpace(plainWords(code))
		if !repeatsStatus.MatchString(words) {
			codes = append(codes, words)
		}
	}
	return codes
}

// saysNothing reports whether a text is empty, or the status's own phrase.
func saysNothing(words string) bool {
	return repeatsStatus.MatchString(strings.Trim(words, " .!\n\t"))
}

// text is all that a refusal says in sentences, each once.
func (e *errorObject) text() string {
	all := e.message
	for _, text := range e.texts {
		if !strings.Contains(all, text) && len(all) < maxErrorBody {
			all += "\n" + text
		}
	}
	return all[:min(len(all), maxErrorBody)]
}

// incurable reports whether a sentence, in plain words, is of money or of a closed
// account.
func incurable(sentence string) bool {
	if p := periodOf(sentence); p > 0 && p < leastDay {
		return false
	}
	switch {
	case incurablePhrase.MatchString(sentence):
		return true
	case longPeriod.MatchString(sentence) && usedUpPattern.MatchString(sentence):
		return true
	case moneyPattern.MatchString(sentence) && usedUpPattern.MatchString(sentence):
		return true
	case closedPattern.MatchString(sentence):
		return !strings.Contains(sentence, "temporar") && !ratePattern.MatchString(sentence)
	}
	return false
}

// sentences cuts plain words where sentences end.
func sentences(words string) []string {
	return sentenceEnd.Split(words, 64)
}

var (
	sentenceEnd   = regexp.MustCompile(`[.!?;]+(?:\s+|$)|[。！？；\n]+`)
	repeatsStatus = regexp.MustCompile(`^(?:(?:http |error |status )*(?:code )?429)?[ :]*(?:too many requests?(?: error)?)?$|^(?:\w+ )?error$|^(?:resource exhausted|rejected|failed|null|none|invalid request error|server error|client error)$`)

	// advicePattern begins sentences that tell what to do, and not what is wrong.
	advicePattern = regexp.MustCompile(`^\s*(?:please |kindly )?(?:visit|see|go to|you (?:can|may|could)|to (?:increase|raise|learn|get|continue|view|check|keep)|for more|learn more|need more|upgrade|contact|consider|if you|add|top up|recharge|purchase|buy|increase|enable|manage|subscribe|request)\b`)
	payPattern    = regexp.MustCompile(`\b(?:top up|recharge|add (?:more |\d+ )?(?:credits?|funds|a payment|payment)|(?:purchase|buy) (?:more )?(?:credits?|tokens|a plan)|billing)\b|充值|续费|购买`)

	planAndBilling = regexp.MustCompile(`(?:please )?check your (?:plan (?:and|or|&) )?billing(?: details)?`)
	zeroLimit      = regexp.MustCompile(`\blimit ?(?:is |of |=)? ?0(?:[, .;\n]|$)`)

	incurableCode = regexp.MustCompile(`(?m)\binsufficient (?:\w+ )?(?:quota|balance|credits?|funds?)\b` +
		`|\bbilling (?:hard limit|not active|limit)|\bhard limit\b|\b(?:credits?|balance|funds?|budget|spend|spending|wallet|allowance) (?:limit|exhausted|exceeded|reached|depleted|empty|insufficient|low|too low|used up|required|expired)` +
		`|\b(?:exceeded|exhausted|insufficient|no|low|negative) (?:\w+ )?(?:credits?|balance|funds?|budget|spend|spending)\b` +
		`|\b(?:account|user|organization|org|workspace|project|team|key|subscription|plan|trial) (?:\w+ )?(?:deactivated|disabled|suspended|terminated|banned|locked|overdue|expired|inactive|not active|arrears?|frozen|closed)` +
		`|\barrear(?:s|age)?\b|\boverdue\b|\bpayment (?:required|failed)|\baccess terminated|\busage not included|\bcharge resource exhaust|\bset limit exceeded|\bcommodity not purchased|\bfree tier only|\bservice not activated` +
		`|\bexceeded current quota error\b|\bpre consume token quota failed|\btoken quota exhausted|\bmonthly\b.*\b(?:limit|quota|exceeded)|\bweekly\b.*\b(?:limit|quota|exceeded)` +
		`|^(?:1112|1113|1309|1310|1008)$`)

	incurablePhrase = regexp.MustCompile(`\binsufficient (?:\w+ )?(?:quota|balance|credits?|funds?|resources? package)\b|\bbilling hard limit|\bhard limit (?:\w+ )?(?:reached|exceeded)|\bpayment (?:is )?(?:required|failed|overdue)` +
		`|\btrial\b.*\b(?:ended|expired|is over)\b|\bfree (?:tier|quota|credits?|usage)\b.*\b(?:ended|expired|used up|has been exhausted|is exhausted)\b` +
		`|\b(?:specified|set|configured) (?:api )?(?:usage|inference) limits?\b|\bregain access\b|\btotal limit\b|\blifetime\b.*\blimit` +
		`|余额|欠费|额度(?:不足|已|用)|剩余额度|用户额度|令牌额度|套餐.*(?:到期|过期|用完)|已停用|已禁用|已封禁|免费.*(?:用完|耗尽|到期)` +
		`|残高|クレジット.*(?:不足|なくな|使い切)|利用停止|アカウント.*停止|잔액|크레딧.*(?:부족|소진)|계정.*정지` +
		`|\bguthaben\b|\bkonto\b.*\b(?:gesperrt|deaktiviert)|\bausgabenlimit|\bsolde\b|\bcrédits?\b.*\b(?:insuffisants?|épuisés?)|\bplafond de dépenses|\bcompte\b.*\b(?:suspendu|désactivé|bloqué)` +
		`|\bsaldo\b|\bcréditos?\b.*\b(?:insuficientes?|agotados?|esgotados?)|\bcredito\b.*\b(?:insufficiente|esaurito)|\bcuenta\b.*\b(?:suspendida|desactivada)|\bconta\b.*\b(?:suspensa|desativada)|недостаточно средств|баланс|задолженность|заблокирован`)

	longPeriod    = regexp.MustCompile(`\b(?:monthly|weekly|yearly|annual|lifetime|per (?:week|month|year)|this (?:week|month|year)|billing (?:period|cycle))\b|每周|本周|每月|本月|当月`)
	moneyPattern  = regexp.MustCompile(`\b(?:balance|credits?|spend|spending|budget|billing|payments?|invoices?|funds?|money|wallet|prepaid|postpaid|subscription|arrears?|arrearage|allowance|deposit|purse)\b`)
	usedUpPattern = regexp.MustCompile(`\b(?:insufficient|exceed(?:s|ed|ing)?|exhaust(?:s|ed)?|reach(?:ed)?|reaching|used|run out|ran out|out of|depleted|empty|too low|low|zero|0|negative|not enough|not sufficient|no|lacks?|expired?|ended|inactive|not active|suspended|declined|fail(?:s|ed)?|failure|unpaid|past due|overdue|hit|limited|limit|cap|capped|blocked|required|requires|left|consumed|spent|does not have|don t have|doesn t have|do not have|gone|stopped|over)\b|用完|耗尽|不足|超出|已达`)
	closedPattern = regexp.MustCompile(`\b(?:account|user|organization|organisation|org|workspace|project|team|api key|key|token|subscription|plan|tenant)\b.*\b(?:suspended|deactivated|disabled|terminated|banned|blocked|locked|overdue|in arrears|past due|expired|revoked|frozen|closed|inactive|not active|cancelled|canceled|paused)\b`)

	// ratePattern are the words of limits that time cures, and of providers that are
	// overrun.
	ratePattern = regexp.MustCompile(`\brate ?limit|\brate limited\b|\btoo many (?:\w+ )?(?:requests?|tokens|calls|connections|messages|queries)|\bconcurren|\bparallel\b|\bthrottl|\boverload|\bcapacity\b|\bbusy\b|\bslow down\b|\brequests? (?:rate )?limit\b|\bcall rate\b|\bfrequen(?:cy|t|tly)\b|\bburst\b|\bin flight\b|\bhigh (?:demand|load|traffic)\b|\bqueue\b|\btoo (?:fast|quickly)\b|\b(?:try again|retry) (?:in|after) ~?\d` +
		`|频繁|频率|限流|限速|速率|并发|过载|繁忙|拥挤|请求过多|请求数|レート|リクエスト.*多|混雑|요청.*(?:많|초과)|zu viele|trop de requ|demasiad[ao]s|muitas (?:solicita|requisi)|troppe richieste|слишком много`)
)
