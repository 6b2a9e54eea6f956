package image

import (
	"errors"
	"fmt"
	"strings"
)

// splitWords splits s at spaces outside quotes, and leaves quotes and
// backslashes where they are for expand.
func splitWords(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	quote := byte(0)
	in := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && quote != '\'' && i+1 < len(s):
			word.WriteByte(c)
			i++
			word.WriteByte(s[i])
			in = true
		case quote != 0:
			word.WriteByte(c)
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote, in = c, true
			word.WriteByte(c)
		case c == ' ' || c == '\t':
			if in {
				words = append(words, word.String())
				word.Reset()
			}
			in = false
		default:
			word.WriteByte(c)
			in = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("quote %c is not closed", quote)
	}
	if in {
		words = append(words, word.String())
	}
	if len(words) == 0 {
		return nil, errors.New("an argument is missing")
	}
	return words, nil
}

// expand removes quotes and backslashes from s and replaces $NAME, ${NAME},
// ${NAME:-default} and ${NAME:+other} as a Dockerfile does. Single quotes keep
// all as it is.
func expand(s string, getenv func(string) (string, bool)) (string, error) {
	var out strings.Builder
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == '\'' && c != '\'':
			out.WriteByte(c)
		case c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case c == '\\' && i+1 < len(s):
			i++
			if quote == '"' && !strings.ContainsRune(`"\$`, rune(s[i])) {
				out.WriteByte('\\')
			}
			out.WriteByte(s[i])
		case c == '$':
			value, n, err := expandVariable(s[i+1:], getenv)
			if err != nil {
				return "", err
			}
			out.WriteString(value)
			i += n
		default:
			out.WriteByte(c)
		}
	}
	if quote != 0 {
		return "", fmt.Errorf("quote %c is not closed", quote)
	}
	return out.String(), nil
}

// expandVariable reads a variable at the start of s, which follows a $, and
// returns its value and how much of s it took.
func expandVariable(s string, getenv func(string) (string, bool)) (string, int, error) {
	if !strings.HasPrefix(s, "{") {
		n := nameLength(s)
		if n == 0 {
			return "$", 0, nil
		}
		value, _ := getenv(s[:n])
		return value, n, nil
	}
	end := closingBrace(s)
	if end < 0 {
		return "", 0, fmt.Errorf("${ in %q is not closed", "$"+s)
	}
	inner := s[1:end]
	n := nameLength(inner)
	if n == 0 {
		return "", 0, fmt.Errorf("%q names no variable", "$"+s[:end+1])
	}
	value, set := getenv(inner[:n])
	operator := inner[n:]
	other := ""
	if len(operator) > 2 {
		var err error
		if other, err = expand(operator[2:], getenv); err != nil {
			return "", 0, err
		}
	}
	switch {
	case operator == "":
	case strings.HasPrefix(operator, ":-"):
		if value == "" {
			value = other
		}
	case strings.HasPrefix(operator, ":+"):
		if set && value != "" {
			value = other
		}
	default:
		return "", 0, fmt.Errorf("%q: only ${NAME}, ${NAME:-default} and ${NAME:+other} are known", "$"+s[:end+1])
	}
	return value, end + 1, nil
}

// closingBrace is the index of the brace that closes the one s starts with.
func closingBrace(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '{':
			depth++
		case '}':
			depth--
			if depth == 0 {
				return i
			}
		case '\\':
			i++
		}
	}
	return -1
}

// nameLength is how much of s is a variable's name.
func nameLength(s string) int {
	n := 0
	for n < len(s) && (s[n] == '_' || s[n] >= 'a' && s[n] <= 'z' || s[n] >= 'A' && s[n] <= 'Z' || n > 0 && s[n] >= '0' && s[n] <= '9') {
		n++
	}
	return n
}
