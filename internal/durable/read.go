package durable

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// BrokenError says that a record is there and cannot be used. It stops what the
// record belongs to, and nothing else.
type BrokenError struct {
	Path string
	// Newer says that the record is whole, and of a later version of this program:
	// nobody here may replace or remove it unasked.
	Newer bool
	Err   error // what is wrong with it
}

func (e *BrokenError) Error() string { return fmt.Sprintf("cannot read record %s: %v", e.Path, e.Err) }
func (e *BrokenError) Unwrap() error { return e.Err }

// Broken returns the BrokenError that err is or wraps, nil for none.
func Broken(err error) *BrokenError {
	var broken *BrokenError
	if errors.As(err, &broken) {
		return broken
	}
	return nil
}

var (
	errEmpty   = errors.New("it is empty")
	errGarbled = errors.New("it is cut or garbled")
)

// ReadJSON reads a record that has no version. The error is fs.ErrNotExist if
// there is none, and otherwise a *BrokenError.
func ReadJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil:
		return &BrokenError{Path: path, Err: err}
	}
	return decode(path, data, v)
}

// ReadVersioned is ReadJSON for a record with a version: version is where v keeps
// it, known the latest that this program understands.
func ReadVersioned(path string, v any, version *int, known int) error {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil:
		return &BrokenError{Path: path, Err: err}
	}
	err = decode(path, data, v)
	have := *version
	if err != nil {
		// What a later version means by a field may not fit into ours.
		var only struct{ Version int }
		if json.Unmarshal(data, &only) != nil || only.Version <= known {
			return err
		}
		have = only.Version
	}
	switch {
	case have > known:
		return &BrokenError{Path: path, Newer: true, Err: fmt.Errorf("it has version %d, this program knows %d; use the newer stack that made it", have, known)}
	case have < 1:
		return &BrokenError{Path: path, Err: fmt.Errorf("%w: it has no version", errGarbled)}
	}
	return nil
}

func decode(path string, data []byte, v any) error {
	// A file system that lost power may also give zeros for what was not synced.
	if len(bytes.Trim(data, "\x00 \n")) == 0 {
		return &BrokenError{Path: path, Err: errEmpty}
	}
	if err := json.Unmarshal(data, v); err != nil {
		return &BrokenError{Path: path, Err: fmt.Errorf("%w: %w", errGarbled, err)}
	}
	return nil
}
