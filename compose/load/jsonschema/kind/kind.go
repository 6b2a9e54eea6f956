// Package kind has the kinds of errors that compose-go tells apart.
package kind

import (
	"math/big"

	"golang.org/x/text/message"
)

// kind is what all have in common.
type kind struct{}

func (kind) KeywordPath() []string                   { return nil }
func (kind) LocalizedString(*message.Printer) string { return "is not valid" }

// Type is a value of the wrong type.
type Type struct {
	kind
	Got  string
	Want []string
}

// Minimum is a number that is too small.
type Minimum struct {
	kind
	Got, Want *big.Rat
}

// Maximum is a number that is too large.
type Maximum struct {
	kind
	Got, Want *big.Rat
}

// AdditionalProperties is a key that is not known.
type AdditionalProperties struct {
	kind
	Properties []string
}
