package wire

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxSaid bounds what is quoted of a provider, in bytes.
const maxSaid = 240

// said is a refusal's own word for people: one line, shortened, without what may be a
// secret. It is shown to other clients of the same model than the one that was refused,
// so it goes by rule, and not by what is known to be a key.
func (e *errorObject) said() string {
	text := e.message
	switch code := e.code; {
	case text == "" && code == "":
		text = e.typ
	case text == "":
		text = code
	case code != "" && !repeatsStatus.MatchString(strings.ToLower(code)) && !strings.Contains(text, code) && len(code) <= 64:
		text = code + ": " + text
	}
	return Quotable(text)
}

// SaidOf is what the body of a refusal says, as [Quotable] makes it.
func SaidOf(body []byte) string {
	e := parseError(body)
	return e.said()
}

// Quotable makes a text of a provider fit for logs and for errors: at most 240 bytes
// on one line, without control characters, and without keys, tokens, addresses' queries,
// and names of people and organisations, as far as their form tells them.
func Quotable(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), 16*maxSaid)], "\uFFFD")
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
	}), " ")
	for _, rule := range secretRules {
		text = rule.form.ReplaceAllString(text, rule.with)
	}
	text = longWord.ReplaceAllStringFunc(text, hideRandom)
	if len(text) <= maxSaid {
		return text
	}
	end := maxSaid - len("…")
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

const hidden = "[…]"

// secretRules are forms of what does not belong into a log. Providers mask keys that
// they quote ("sk-abc***xyz"), and what is left is hidden, too.
var secretRules = []struct {
	form *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(?i)(https?://)[^\s/@]+@`), "$1"},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[^\s"',;]+`), "$1 " + hidden},
	{regexp.MustCompile(`(?i)\b(api[-_ ]?keys?|access[-_ ]?tokens?|secrets?|passwords?|authorization|x-api-key|subscription[-_ ]key)(["']?\s*[:=]\s*["']?|\s+(?:provided|given|sent)?\s*(?:[:=]\s*["']?|["']))[^\s"',;]+`), "$1$2" + hidden},
	{regexp.MustCompile(`(?i)\b(sk|pk|rk|gsk|csk|nvapi|xai|hf|r8|fw|pplx|glm|ak|key|aiza|ghp|gho|github_pat|sess|tgp|dsk|ya29|akia|asia)([-_.*])[-\w.*•…]{4,}`), "$1$2" + hidden},
	{regexp.MustCompile(`\b(?:AIza|AKIA|ASIA|ya29\.)[\w\-*.]{6,}`), hidden},
	{regexp.MustCompile(`\beyJ[\w-]{4,}(?:\.[\w-]*){0,2}`), hidden},
	{regexp.MustCompile(`(?i)\b(org|proj|acct|req)([-_])[A-Za-z0-9]{4,}\b`), "$1$2" + hidden},
	{regexp.MustCompile(`(?i)\b(organization|project|user|account|team|workspace|tenant|request)([-_ ])[A-Za-z]*\d[A-Za-z0-9]{3,}\b`), "$1$2" + hidden},
	{regexp.MustCompile(`[\w.+%-]+@[\w-]+(?:\.[\w-]+)+`), hidden},
	{regexp.MustCompile(`(?i)(https?://[^\s?#"'<>]*)[?#][^\s"'<>]*`), "$1"},
	{regexp.MustCompile(`\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b`), hidden},
	{regexp.MustCompile(`\S*[*•]{3,}\S*`), hidden},
}

// longWord is a run that could be a key: of letters and digits, longer than what
// versions and dates of models are made of.
var longWord = regexp.MustCompile(`[A-Za-z0-9+=]{16,}`)

// hideRandom hides a run that has letters and digits; words and numbers stay.
func hideRandom(word string) string {
	letters, digits, capitals := 0, 0, 0
	for _, r := range word {
		switch {
		case unicode.IsDigit(r):
			digits++
		case unicode.IsUpper(r):
			capitals++
			letters++
		default:
			letters++
		}
	}
	switch {
	case letters > 0 && digits > 1, len(word) >= 40, capitals > 4 && letters-capitals > 4 && len(word) >= 24:
		return hidden
	}
	return word
}
