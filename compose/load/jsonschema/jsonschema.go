// Package jsonschema stands in for the JSON schema library that compose-go
// imports. That library compiles the meta-schemas of JSON schema when a program
// starts, which costs each stack process 4 ms of CPU and 1.7 MB of memory,
// whatever it does. Package compose/load validates Compose files itself, against
// the same schema and with better messages, so here everything is valid.
package jsonschema

import (
	"encoding/json"
	"io"

	"golang.org/x/text/message"
)

// Compiler compiles schemas.
type Compiler struct{}

// NewCompiler returns a compiler.
func NewCompiler() *Compiler { return &Compiler{} }

// AddResource takes a schema.
func (c *Compiler) AddResource(string, any) error { return nil }

// RegisterFormat takes a format.
func (c *Compiler) RegisterFormat(*Format) {}

// Compile returns the schema that accepts everything.
func (c *Compiler) Compile(string) (*Schema, error) { return &Schema{}, nil }

// Format is a named check of a string.
type Format struct {
	Name     string
	Validate func(any) error
}

// Schema accepts everything.
type Schema struct{}

// Validate finds nothing wrong.
func (s *Schema) Validate(any) error { return nil }

// UnmarshalJSON decodes a JSON value.
func UnmarshalJSON(r io.Reader) (any, error) {
	var v any
	err := json.NewDecoder(r).Decode(&v)
	return v, err
}

// ErrorKind says what is wrong.
type ErrorKind interface {
	KeywordPath() []string
	LocalizedString(*message.Printer) string
}

// ValidationError is never returned; compose-go names it.
type ValidationError struct {
	SchemaURL        string
	InstanceLocation []string
	ErrorKind        ErrorKind
	Causes           []*ValidationError
}

func (e *ValidationError) Error() string { return "invalid" }
