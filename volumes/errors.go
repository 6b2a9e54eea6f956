package volumes

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// ErrNotFound is what every *NotFoundError is, for errors.Is.
var ErrNotFound = errors.New("volume does not exist")

// NotFoundError says that there is no volume of that name.
type NotFoundError struct{ Name string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("volume %q does not exist; create it with: stack volume create %s", e.Name, e.Name)
}

// Is makes errors.Is(err, ErrNotFound) true.
func (e *NotFoundError) Is(target error) bool { return target == ErrNotFound }

// InUseError says that a volume cannot be removed, renamed or filled now.
type InUseError struct {
	Name  string
	Users []string // containers; empty while the volume is being filled
	// To is what was to be done: "rename", "fill", or, where it is empty, remove.
	To string
}

func (e *InUseError) Error() string {
	text := fmt.Sprintf("cannot %s volume %q: ", cmp.Or(e.To, "remove"), e.Name)
	users := strings.Join(e.Users, ", ")
	switch {
	case len(e.Users) == 0:
		return text + "content is being copied into it; try again when that is done"
	case e.To == "fill":
		return text + fmt.Sprintf("%s runs and has it mounted; stop what runs first, and start it again afterwards", users)
	case e.To == "rename":
		return text + fmt.Sprintf("it is used by %s, under this name; remove what uses it first (\"stack down\" and \"stack container rm\" keep named volumes)", users)
	}
	return text + fmt.Sprintf("the volume is in use by %s; remove what uses it first", users)
}

// ExistsError says that a name is taken.
type ExistsError struct{ Name string }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("volume %q exists already; choose another name, or remove it with: stack volume rm %s (its data is lost)", e.Name, e.Name)
}

// NotEmptyError says that a volume has content that was not to be replaced.
type NotEmptyError struct{ Name string }

func (e *NotEmptyError) Error() string { return fmt.Sprintf("volume %q is not empty", e.Name) }

// DifferError says that a volume exists with another specification than the
// one asked for. Nothing was changed.
type DifferError struct {
	Name   string
	Fields []string // such as "driverOpts.device", "labels.tier"; sorted
	Have   Spec
	Want   Spec
}

func (e *DifferError) Error() string {
	return fmt.Sprintf("volume %q exists with another %s; remove it with: stack volume rm %s (its data is lost), or use another name",
		e.Name, strings.Join(e.Fields, ", "), e.Name)
}

// SourceError says that the source of a mount cannot be used.
type SourceError struct {
	Origin string // where the user asked for it, may be empty
	Text   string
	Err    error // may be nil
}

func (e *SourceError) Error() string {
	if e.Origin == "" {
		return e.Text
	}
	return e.Origin + ": " + e.Text
}

func (e *SourceError) Unwrap() error { return e.Err }

// refuse makes the SourceError of a mount.
func refuse(m Mount, cause error, format string, args ...any) error {
	return &SourceError{Origin: m.Origin, Text: fmt.Sprintf(format, args...), Err: cause}
}
