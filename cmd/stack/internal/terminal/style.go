package terminal

// Style is an SGR sequence's parameters (ECMA-48 8.3.117), such as "32" for
// green or "1;36" for bold cyan. The empty style leaves text as it is.
type Style string

// Styles that the command line uses.
const (
	Plain   Style = ""
	Red     Style = "31"
	Green   Style = "32"
	Yellow  Style = "33"
	Blue    Style = "34"
	Magenta Style = "35"
	Cyan    Style = "36"
	Bold    Style = "1"
	Faint   Style = "2"
)

// Paint returns s in the style.
func (st Style) Paint(s string) string {
	if st == Plain || s == "" {
		return s
	}
	return "\x1b[" + string(st) + "m" + s + "\x1b[0m"
}
