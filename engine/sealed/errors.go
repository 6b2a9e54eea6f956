package sealed

import (
	"errors"
	"fmt"
	"strings"
)

// NotFoundError says that there is no such object.
type NotFoundError struct {
	Kind Kind
	Name string // or ID
}

func (e *NotFoundError) Error() string {
	if CheckName(e.Kind, e.Name) != nil {
		return fmt.Sprintf("no such %s: %q", e.Kind, e.Name)
	}
	return fmt.Sprintf("no such %s: %s; create it with: %s create %s FILE", e.Kind, e.Name, e.Kind.Command(), e.Name)
}

// ExistsError says that the name is taken.
type ExistsError struct{ Object }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("cannot create %s %q: there is one of that name already; choose another name, or give it new content with --replace", e.Kind, e.Name)
}

// InUseError says that containers have the object.
type InUseError struct {
	Kind  Kind
	Name  string
	Users []string // containers
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("cannot remove %s %q: it is used by %s; remove what uses it first", e.Kind, e.Name, strings.Join(e.Users, ", "))
}

// KeyError says that the key cannot be used. The objects are there still.
type KeyError struct {
	Path string
	Err  error
}

func (e *KeyError) Error() string {
	return fmt.Sprintf("the key %s cannot be used: %v; put it back from a backup, or remove the secrets and configs that it sealed (%s rm, %s rm) and create them again",
		e.Path, e.Err, Secret.Command(), Config.Command())
}

func (e *KeyError) Unwrap() error { return e.Err }

// DamagedError says that an object's file cannot be used.
type DamagedError struct {
	Kind Kind
	Name string
	Path string
	// Newer says that the file is whole, and of a later version of this program.
	Newer bool
	Err   error
}

func (e *DamagedError) Error() string {
	if e.Newer {
		return fmt.Sprintf("cannot read %s %q: %s: %v", e.Kind, e.Name, e.Path, e.Err)
	}
	return fmt.Sprintf("cannot read %s %q: %s is damaged: %v; put it back from a backup, or create it again: %s create --replace %s FILE",
		e.Kind, e.Name, e.Path, e.Err, e.Kind.Command(), e.Name)
}

func (e *DamagedError) Unwrap() error { return e.Err }

var (
	errMissing = errors.New("it is missing")
	errAltered = errors.New("it was altered, or belongs elsewhere")
)
