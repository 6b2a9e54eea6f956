package volumes

import (
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

// InUseError says that a volume cannot be removed now.
type InUseError struct {
	Name  string
	Users []string // containers; empty while the volume is being filled
}

func (e *InUseError) Error() string {
	if len(e.Users) == 0 {
		return fmt.Sprintf("cannot remove volume %q: image content is being copied into it; try again when the container has started", e.Name)
	}
	return fmt.Sprintf("cannot remove volume %q: the volume is in use by %s; remove what uses it first", e.Name, strings.Join(e.Users, ", "))
}

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
