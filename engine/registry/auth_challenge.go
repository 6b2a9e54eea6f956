package registry

import "strings"

// challenge is one challenge of a WWW-Authenticate field (RFC 9110, section 11.6.1).
type challenge struct {
	scheme string // lower case
	params map[string]string
}

// parseChallenges reads all WWW-Authenticate lines of an answer. One line may
// hold several challenges, and the comma between two of them looks like the one
// between two parameters: what is followed by "=" is a parameter, anything else
// begins a challenge. What cannot be read is left out.
func parseChallenges(lines []string) []challenge {
	var all []challenge
	for _, line := range lines {
		all = append(all, parseChallengeLine(line)...)
	}
	return all
}

const blanks = " \t"

func parseChallengeLine(s string) []challenge {
	var all []challenge
	for {
		s = strings.TrimLeft(s, blanks+",")
		n := tokenLength(s)
		if n == 0 {
			return all
		}
		word := strings.ToLower(s[:n])
		s = strings.TrimLeft(s[n:], blanks)
		value, isParameter := strings.CutPrefix(s, "=")
		if !isParameter {
			all = append(all, challenge{scheme: word, params: map[string]string{}})
			continue
		}
		value, s = parameterValue(strings.TrimLeft(value, blanks))
		if len(all) > 0 {
			all[len(all)-1].params[word] = value
		}
	}
}

// parameterValue reads a token or a quoted string from the start of s.
func parameterValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexAny(s, blanks+",")
		if i < 0 {
			i = len(s)
		}
		return s[:i], s[i:]
	}
	var b strings.Builder
	i := 1
	for ; i < len(s) && s[i] != '"'; i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), s[min(i+1, len(s)):]
}

// tokenLength is how much of s is a token (RFC 9110, section 5.6.2).
func tokenLength(s string) int {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return i
		}
	}
	return len(s)
}
