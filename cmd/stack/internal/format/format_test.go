package format

import (
	"net/netip"
	"strings"
	"testing"
)

type row struct {
	labels map[string]string
	Name   string
	Ports  []string
	Size   string
}

func (r row) Label(key string) string { return r.labels[key] }

func TestWrite(t *testing.T) {
	rows := []row{
		{Name: "web", Ports: []string{"80", "443"}, Size: "1MB", labels: map[string]string{"com.example.tier": "front"}},
		{Name: "a-long-name", Size: "<2>"},
	}
	l := Layout{Table: "{{.Name}}\t{{.Size}}", Quiet: "{{.Name}}", Headers: map[string]string{"Name": "NAME", "Size": "SIZE", "Ports": "PORTS"}}
	for name, test := range map[string]struct {
		o    Options
		want string
	}{
		"default":  {Options{}, "NAME          SIZE\nweb           1MB\na-long-name   <2>\n"},
		"table":    {Options{Format: "table"}, "NAME          SIZE\nweb           1MB\na-long-name   <2>\n"},
		"quiet":    {Options{Quiet: true}, "web\na-long-name\n"},
		"json":     {Options{Format: "json"}, `{"Name":"web","Ports":["80","443"],"Size":"1MB"}` + "\n" + `{"Name":"a-long-name","Ports":null,"Size":"<2>"}` + "\n"},
		"template": {Options{Format: `{{.Name}}\t{{join .Ports ","}}`}, "web\t80,443\na-long-name\t\n"},
		"functions": {Options{Format: `{{upper .Name}} {{title .Name}} {{truncate .Name 3}}{{pad .Size 1 1}}{{json .Ports}} {{index (split .Name "-") 0}}`},
			"WEB Web web 1MB [\"80\",\"443\"] web\nA-LONG-NAME A-long-name a-l <2> null a\n"},
		"table template": {Options{Format: `table {{lower .Name}}\t{{.Label "com.example.tier"}}\t{{join .Ports "+"}}`},
			"NAME          TIER      PORTS\nweb           front     80+443\na-long-name             \n"},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := Write(&b, l, test.o, rows); err != nil {
				t.Fatal(err)
			}
			if b.String() != test.want {
				t.Errorf("got\n%s\nwant\n%s", b.String(), test.want)
			}
		})
	}
	for _, bad := range []string{"{{.Name", "{{.Nosuch}}", "{{nosuch .Name}}"} {
		if err := Write(&strings.Builder{}, l, Options{Format: bad}, rows); err == nil {
			t.Errorf("no error for %s", bad)
		}
	}
	var b strings.Builder
	if err := Write(&b, l, Options{}, []row(nil)); err != nil || b.String() != "NAME      SIZE\n" {
		t.Errorf("empty table %q, %v", b.String(), err)
	}
}

func TestInspected(t *testing.T) {
	type state struct{ ExitCode int }
	v := struct {
		ID      string `json:"Id"`
		Address netip.Addr
		State   state
		Health  *state `json:",omitempty"`
	}{ID: "x"}
	for as, want := range map[string]string{
		"{{.ID}} {{if eq .State.ExitCode 0}}well{{end}}": "x well\n",
		"{{.Id}}{{.ID}}{{.Address}}":                     "xx\n",
		"{{.ID}} {{if .Health}}checked{{end}}":           "x \n",
		"{{json .}}":                                     `{"Id":"x","Address":"","State":{"ExitCode":0}}` + "\n",
	} {
		var b strings.Builder
		if err := Inspected(&b, as, v); err != nil || b.String() != want {
			t.Errorf("%q: got %q, %v; want %q", as, b.String(), err, want)
		}
	}
	if err := Inspected(&strings.Builder{}, "{{.Nope}}", v); err == nil || !strings.Contains(err.Error(), "Nope") {
		t.Errorf("a field that is not there: %v", err)
	}
}

func TestObject(t *testing.T) {
	v := map[string]any{"Id": "x", "Tags": []string{"a<b"}}
	for as, want := range map[string]string{
		"":                              "{\n    \"Id\": \"x\",\n    \"Tags\": [\n        \"a<b\"\n    ]\n}\n",
		"json":                          `{"Id":"x","Tags":["a<b"]}` + "\n",
		"{{.Id}} {{len .Tags}}":         "x 1\n",
		`{{range .Tags}}{{.}}\n{{end}}`: "a<b\n\n",
	} {
		var b strings.Builder
		if err := Object(&b, as, v); err != nil || b.String() != want {
			t.Errorf("%q: got %q, %v; want %q", as, b.String(), err, want)
		}
	}
}
