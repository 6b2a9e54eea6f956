package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type note struct {
	Version int
	Text    string
}

func TestReadTellsWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name, content, says string
		newer               bool
	}{
		{name: "empty", content: "", says: "empty"},
		{name: "zeros", content: "\x00\x00\x00", says: "empty"},
		{name: "cut", content: `{"Version":1,"Te`, says: "cut or garbled"},
		{name: "garbled", content: "\x7fELF", says: "cut or garbled"},
		{name: "another kind", content: `[1]`, says: "cut or garbled"},
		{name: "no version", content: `{}`, says: "no version"},
		{name: "newer", content: `{"Version":2,"Text":"x"}`, says: "newer stack", newer: true},
		{name: "newer, of another form", content: `{"Version":2,"Text":["x"]}`, says: "newer stack", newer: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "note")
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			var n note
			err := ReadVersioned(path, &n, &n.Version, 1)
			broken := Broken(err)
			if broken == nil {
				t.Fatalf("got %v, want a BrokenError", err)
			}
			if broken.Path != path || broken.Newer != c.newer || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %+v: %v", broken, err)
			}
		})
	}
}

func TestReadMissing(t *testing.T) {
	var n note
	err := ReadVersioned(filepath.Join(t.TempDir(), "note"), &n, &n.Version, 1)
	if !errors.Is(err, fs.ErrNotExist) || Broken(err) != nil {
		t.Errorf("got %v", err)
	}
}

func TestReadDirectory(t *testing.T) {
	var n note
	if err := ReadJSON(t.TempDir(), &n); Broken(err) == nil {
		t.Errorf("got %v", err)
	}
}

func TestWrite(t *testing.T) {
	for _, keep := range []Keep{Synced, Volatile} {
		dir := t.TempDir()
		path := filepath.Join(dir, "note")
		if err := os.Mkdir(path, 0o700); err != nil { // an empty directory gives way
			t.Fatal(err)
		}
		for _, text := range []string{"one", "two"} {
			if err := WriteJSON(path, note{1, text}, keep); err != nil {
				t.Fatal(err)
			}
			var n note
			if err := ReadVersioned(path, &n, &n.Version, 1); err != nil || n.Text != text {
				t.Errorf("got %+v, %v", n, err)
			}
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("left behind: %v", entries)
		}
	}
}

func TestWriteOverDirectoryWithContent(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "note")
	if err := os.MkdirAll(filepath.Join(path, "precious"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := WriteJSON(path, note{1, "x"}, Volatile)
	if err == nil || !strings.Contains(err.Error(), "directory") {
		t.Errorf("got %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestRemoveTemps(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "[odd]") // no pattern
	if err := RemoveTemps(dir); err != nil {
		t.Errorf("of no directory: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"record.json", TempPrefix + "1", TempPrefix + "2"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemoveTemps(dir); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "record.json" {
		t.Errorf("left is %v, %v", left, err)
	}
}
