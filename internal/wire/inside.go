package wire

// maxFault is how much is kept of an error inside an answer.
const maxFault = 16 << 10

// errorOf finds what failed in an answer or an event: itself, if it has an error, or
// the response or the choice inside it that has one.
func errorOf(body []byte) []byte {
	if !isNull(memberOf(body, "error")) {
		return body
	}
	if inner := memberOf(body, "response"); inner[0] == '{' {
		return inner
	}
	if choices := memberOf(body, "choices"); choices[0] == '[' {
		if choice := firstValue(choices, true); !isNull(memberOf(choice, "error")) {
			return choice
		}
	}
	return body
}

// isBareError reports whether an answer that is none of its format says by its code
// that it is a rate limit, without an error around that.
func isBareError(v []byte) bool {
	if !isNull(memberOf(v, "error")) {
		return false // its reader has seen it
	}
	for m := membersOf(v); m.next(); {
		switch string(m.name) {
		case "code", "status", "status_code", "statusCode", "error_code", "errorCode":
			if code := plainWords(scalar(m.value)); limitCode.MatchString(code) || ratePattern.MatchString(code) {
				return true
			}
		}
	}
	return false
}
