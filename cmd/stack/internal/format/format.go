// Package format prints lists as docker's --format option says: a table, one
// JSON object per line, or a Go template for each row.
package format

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
)

// Layout is what is particular to one kind of list.
type Layout struct {
	// Table is the default table's template, without the word "table".
	Table string
	// Quiet is the template of -q.
	Quiet string
	// Headers are the column titles by field name.
	Headers map[string]string
}

// Options are the user's wishes.
type Options struct {
	Format string // "", "table", "table TEMPLATE", "json" or a template
	Quiet  bool
}

// Write prints rows. A row is a struct whose fields are the template's fields;
// its JSON keys come in the order of the fields.
func Write[T any](w io.Writer, l Layout, o Options, rows []T) error {
	text, table := l.template(o)
	t, err := Parse(text)
	if err != nil {
		return err
	}
	var body bytes.Buffer
	for _, row := range rows {
		if err := t.Execute(&body, row); err != nil {
			return fmt.Errorf("cannot format output: %w; the fields are in the output of --format json", err)
		}
		body.WriteByte('\n')
	}
	if !table {
		_, err = body.WriteTo(w)
		return err
	}
	tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	if err := t.Funcs(headerFuncs()).Execute(tw, header(l.Headers)); err != nil {
		return fmt.Errorf("cannot format the header: %w", err)
	}
	tw.Write([]byte{'\n'})
	body.WriteTo(tw)
	return tw.Flush()
}

func (l Layout) template(o Options) (text string, table bool) {
	rest, isTable := strings.CutPrefix(o.Format, "table")
	switch {
	case o.Quiet && o.Format == "json":
	case o.Quiet && l.Quiet != "":
		return l.Quiet, false
	}
	switch {
	case o.Format == "" || o.Format == "table":
		return l.Table, true
	case o.Format == "json":
		return "{{json .}}", false
	case isTable:
		return unescape(strings.Trim(rest, " ")), true
	}
	return unescape(strings.Trim(o.Format, " ")), false
}

// unescape lets \t and \n be written in a shell's single quotes.
func unescape(s string) string {
	return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(s)
}

// Parse makes a template with docker's functions.
func Parse(text string) (*template.Template, error) {
	t, err := template.New("").Funcs(funcs()).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("cannot parse the --format template: %w", err)
	}
	return t, nil
}

// Object prints one value: as a template, or as indented JSON when the format
// is empty, or as one line of JSON for "json".
func Object(w io.Writer, format string, v any) error {
	switch format {
	case "json":
		format = "{{json .}}"
	case "":
		return JSON(w, v, "    ")
	}
	text, err := execute(format, v, "missingkey=default")
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// Inspected prints an object by a template as docker does: fields have the names of
// the Go type, or else all those of its JSON. The JSON's are also taken where the type
// says "invalid IP" of an address that is not set: there it is empty.
func Inspected(w io.Writer, format string, v any) error {
	text, err := execute(format, v, "missingkey=default")
	if err != nil || bytes.Contains(text, []byte("invalid IP")) || bytes.Contains(text, []byte("invalid Prefix")) {
		g, jsonErr := generic(v)
		if jsonErr != nil {
			return jsonErr
		}
		fromJSON, jsonErr := execute(format, g, "missingkey=error")
		switch {
		case jsonErr == nil:
			text = fromJSON
		case err != nil:
			return jsonErr
		}
	}
	_, err = w.Write(text)
	return err
}

func execute(format string, v any, option string) ([]byte, error) {
	t, err := Parse(unescape(format))
	if err != nil {
		return nil, err
	}
	t.Option(option)
	var b bytes.Buffer
	if err := t.Execute(&b, v); err != nil {
		return nil, fmt.Errorf("cannot format output: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// JSON prints v as JSON, indented unless indent is empty, with a newline.
func JSON(w io.Writer, v any, indent string) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	return e.Encode(v)
}

// generic turns v into what a JSON decoder makes of it, so that templates use
// the JSON names, or "ID" beside them.
func generic(v any) (map[string]any, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var out map[string]any
	if err := d.Decode(&out); err != nil {
		return nil, err
	}
	if id, ok := out["Id"]; ok {
		out["ID"] = id
	}
	return out, nil
}

// Columns prints a table of the kind compose uses for lists without templates.
func Columns(w io.Writer, rows [][]string, titles ...string) error {
	tw := tabwriter.NewWriter(w, 20, 1, 3, ' ', 0)
	fmt.Fprintln(tw, strings.Join(titles, "\t"))
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

func funcs() template.FuncMap {
	return template.FuncMap{
		"json":     toJSON,
		"split":    strings.Split,
		"join":     join,
		"title":    title,
		"lower":    strings.ToLower,
		"upper":    strings.ToUpper,
		"pad":      pad,
		"truncate": truncate,
		"println":  func(a ...any) string { return fmt.Sprintln(a...) },
	}
}

// headerFuncs stand for funcs while the header is printed: a title stays a title.
func headerFuncs() template.FuncMap {
	same := func(s any, _ ...any) any { return s }
	return template.FuncMap{
		"json": same, "split": same, "join": same, "title": same, "lower": same, "upper": same, "truncate": same, "pad": same,
	}
}

// header stands for a row while the header is printed.
type header map[string]string

// Label names the column of one label by the last part of its key.
func (header) Label(key string) string {
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		key = key[i+1:]
	}
	return strings.NewReplacer("-", " ", "_", " ").Replace(strings.ToUpper(key))
}

func toJSON(v any) (string, error) {
	var b strings.Builder
	if err := JSON(&b, v, ""); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

func join(list any, sep string) (string, error) {
	v := reflect.ValueOf(list)
	var parts []string
	switch v.Kind() {
	case reflect.Invalid:
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			parts = append(parts, fmt.Sprint(v.Index(i).Interface()))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			parts = append(parts, fmt.Sprint(v.MapIndex(k).Interface()))
		}
		slices.Sort(parts)
	default:
		return "", fmt.Errorf("join wants a list, not %T", list)
	}
	return strings.Join(parts, sep), nil
}

// title makes the first letter of each word a capital.
func title(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'a' && c <= 'z' && (i == 0 || b[i-1] == ' ' || b[i-1] == '\t') {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

func pad(s string, before, after int) string {
	if s == "" {
		return s
	}
	return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
}

func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n]
}
