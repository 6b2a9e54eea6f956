package sealed

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func nobody(string) []string { return nil }

func create(t *testing.T, s *Store, k Kind, name, content string) Object {
	t.Helper()
	o, err := s.Create(t.Context(), k, name, []byte(content), CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func want(t *testing.T, s *Store, k Kind, name, content string) {
	t.Helper()
	if got, _, err := s.Content(k, name); err != nil || string(got) != content {
		t.Errorf("%s %s is %q, %v; want %q", k, name, got, err, content)
	}
}

func TestCheckName(t *testing.T) {
	for name, good := range map[string]bool{
		"db": true, "d": true, "db_password.v1-2": true, "7": true, strings.Repeat("a", 64): true,
		"": false, strings.Repeat("a", 65): false, ".": false, "..": false, ".tmp-1": false, "-db": false, "db-": false,
		"a/b": false, "../key": false, "a b": false, "ä": false, "a\n": false, "a\x00": false,
	} {
		if err := CheckName(Secret, name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestRecordOpensOnlyWithItsKeyAndAsItWasSealed(t *testing.T) {
	k, err := newKey(bytes.Repeat([]byte{1}, keySize))
	if err != nil {
		t.Fatal(err)
	}
	other, err := newKey(bytes.Repeat([]byte{2}, keySize))
	if err != nil {
		t.Fatal(err)
	}
	sealed := func() *record {
		r, err := k.seal(Object{Kind: Secret, ID: "i", Name: "db", Labels: map[string]string{"tier": "back"}}, []byte("hunter2"))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if content, err := k.open(sealed()); err != nil || string(content) != "hunter2" {
		t.Fatalf("%q, %v", content, err)
	}
	if bytes.Equal(sealed().Sealed, sealed().Sealed) {
		t.Error("one content is sealed twice in the same way")
	}
	if _, err := other.open(sealed()); err == nil {
		t.Error("another key opens it")
	}
	for what, change := range map[string]func(*record){
		"name":    func(r *record) { r.Name = "web" },
		"kind":    func(r *record) { r.Kind = Config },
		"label":   func(r *record) { r.Labels["tier"] = "front" },
		"digest":  func(r *record) { r.Digest = k.digestOf([]byte("x")) },
		"content": func(r *record) { r.Sealed[len(r.Sealed)-1] ^= 1 },
		"nonce":   func(r *record) { r.Sealed[0] ^= 1 },
		"end":     func(r *record) { r.Sealed = r.Sealed[:5] },
		"all":     func(r *record) { r.Sealed = nil },
	} {
		r := sealed()
		change(r)
		if _, err := k.open(r); err == nil {
			t.Errorf("it opens with another %s", what)
		}
	}
	digest := sealed().Digest
	for what, again := range map[string]string{"content": k.digestOf([]byte("x")), "key": other.digestOf([]byte("hunter2"))} {
		if again == digest {
			t.Errorf("with another %s the digest is the same", what)
		}
	}
	if again := sealed().Digest; again != digest {
		t.Errorf("digest %s, and then %s", digest, again)
	}
}

func TestDecodeKey(t *testing.T) {
	text := encodeKey(bytes.Repeat([]byte{7}, keySize))
	if _, err := decodeKey(text); err != nil {
		t.Error(err)
	}
	if _, err := decodeKey(bytes.TrimSpace(text)); err != nil {
		t.Errorf("without the newline: %v", err)
	}
	for _, bad := range []string{"", "\n", string(text[:10]), string(text) + "00", strings.Repeat("x", 2*keySize), strings.Repeat("\x00", 2*keySize)} {
		if _, err := decodeKey([]byte(bad)); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
}

func TestStore(t *testing.T) {
	root := t.TempDir()
	s := Open(root)
	if all, err := s.List(Secret); len(all) > 0 || err != nil {
		t.Errorf("at first there is %v, %v", all, err)
	}
	if entries, _ := os.ReadDir(root); len(entries) > 0 {
		t.Errorf("looking made %v", entries)
	}
	if _, err := s.Create(t.Context(), Secret, "db", []byte("x"), CreateOptions{DryRun: true}); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(root); len(entries) > 0 {
		t.Errorf("a dry run made %v", entries)
	}
	db := create(t, s, Secret, "db", "hunter2")
	create(t, s, Config, "db", "host=x")
	create(t, s, Secret, "api", "token\x00\xff")
	want(t, s, Secret, "db", "hunter2")
	want(t, s, Config, "db", "host=x")
	want(t, Open(root), Secret, "api", "token\x00\xff")
	all, err := s.List(Secret)
	if err != nil || len(all) != 2 || all[0].Name != "api" || all[1].Name != "db" {
		t.Errorf("%v, %v", all, err)
	}
	if o, err := s.Get(Secret, db.ID[:1]); err == nil {
		t.Errorf("one letter means %v", o)
	}
	for _, ref := range []string{"db", db.ID, db.ID[:12]} {
		if o, err := s.Get(Secret, ref); err != nil || o.ID != db.ID {
			t.Errorf("%s: %v, %v", ref, o, err)
		}
	}
	t.Run("files are for the owner and in no clear", func(t *testing.T) {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || p == root {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if want := map[bool]fs.FileMode{true: 0o700, false: 0o600}[d.IsDir()]; info.Mode().Perm() != want {
				t.Errorf("%s has mode %v", p, info.Mode())
			}
			if d.IsDir() {
				return nil
			}
			text, err := os.ReadFile(p)
			for _, clear := range []string{"hunter2", "aHVudGVyMg", "host=x", "token"} {
				if bytes.Contains(text, []byte(clear)) {
					t.Errorf("%s has %s", p, clear)
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("a name is taken until it is replaced", func(t *testing.T) {
		var exists *ExistsError
		if _, err := s.Create(t.Context(), Secret, "db", []byte("x"), CreateOptions{}); !errors.As(err, &exists) {
			t.Errorf("%v", err)
		}
		want(t, s, Secret, "db", "hunter2")
		o, err := s.Create(t.Context(), Secret, "db", []byte("hunter3"), CreateOptions{Replace: true, Labels: map[string]string{"a": "b"}})
		if err != nil || o.ID != db.ID || !o.Created.Equal(db.Created) || o.Digest == db.Digest || o.Labels["a"] != "b" {
			t.Errorf("%+v, %v; was %+v", o, err, db)
		}
		want(t, s, Secret, "db", "hunter3")
	})
	t.Run("limits", func(t *testing.T) {
		if _, err := s.Create(t.Context(), Secret, "large", make([]byte, maxSecret), CreateOptions{}); err != nil {
			t.Error(err)
		}
		for name, content := range map[string][]byte{"larger": make([]byte, maxSecret+1), "empty": nil, "../x": []byte("x"), "": []byte("x")} {
			if _, err := s.Create(t.Context(), Secret, name, content, CreateOptions{}); err == nil {
				t.Errorf("%q was created", name)
			}
		}
		if _, err := s.Create(t.Context(), Secret, "label", []byte("x"), CreateOptions{Labels: map[string]string{"\xff": ""}}); err == nil {
			t.Error("a label that is not UTF-8 was taken")
		}
	})
	t.Run("what is used stays", func(t *testing.T) {
		var used *InUseError
		_, err := s.Remove(t.Context(), Secret, "db", func(name string) []string { return []string{"container of " + name} }, false)
		if !errors.As(err, &used) || !strings.Contains(err.Error(), "container of db") {
			t.Errorf("%v", err)
		}
		if err := s.Keep(t.Context(), Secret, "db"); err != nil {
			t.Error(err)
		}
		if name, err := s.Remove(t.Context(), Secret, "db", nobody, true); err != nil || name != "db" {
			t.Errorf("dry run: %q, %v", name, err)
		}
		want(t, s, Secret, "db", "hunter3")
		if name, err := s.Remove(t.Context(), Secret, db.ID[:8], nobody, false); err != nil || name != "db" {
			t.Errorf("%q, %v", name, err)
		}
		var missing *NotFoundError
		for what, err := range map[string]error{
			"keep":   s.Keep(t.Context(), Secret, "db"),
			"get":    func() error { _, err := s.Get(Secret, "db"); return err }(),
			"read":   func() error { _, _, err := s.Content(Secret, "db"); return err }(),
			"remove": func() error { _, err := s.Remove(t.Context(), Secret, "db", nobody, false); return err }(),
			"odd":    func() error { _, err := s.Get(Secret, "../key"); return err }(),
		} {
			if !errors.As(err, &missing) {
				t.Errorf("%s: %v", what, err)
			}
		}
		want(t, s, Config, "db", "host=x")
	})
}

func TestDamage(t *testing.T) {
	s := Open(t.TempDir())
	create(t, s, Secret, "a", "one")
	create(t, s, Secret, "b", "two")
	keyText, err := os.ReadFile(s.keyPath())
	if err != nil {
		t.Fatal(err)
	}
	put := func(path string, text []byte) {
		t.Helper()
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := encodeKey(bytes.Repeat([]byte{9}, keySize))
	for what, damage := range map[string]func(){
		"missing":   func() { os.Remove(s.keyPath()) },
		"empty":     func() { put(s.keyPath(), nil) },
		"cut":       func() { put(s.keyPath(), keyText[:20]) },
		"zeros":     func() { put(s.keyPath(), make([]byte, len(keyText))) },
		"another":   func() { put(s.keyPath(), other) },
		"directory": func() { os.Remove(s.keyPath()); os.Mkdir(s.keyPath(), 0o700) },
	} {
		t.Run("key "+what, func(t *testing.T) {
			damage()
			var noKey *KeyError
			if _, _, err := s.Content(Secret, "a"); !errors.As(err, &noKey) || !strings.Contains(err.Error(), s.keyPath()) {
				t.Errorf("%v", err)
			}
			if _, err := s.Create(t.Context(), Config, "new", []byte("x"), CreateOptions{}); !errors.As(err, &noKey) {
				t.Errorf("create: %v", err)
			}
			if _, err := s.Create(t.Context(), Secret, "a", []byte("x"), CreateOptions{Replace: true}); !errors.As(err, &noKey) {
				t.Errorf("replace: %v", err)
			}
			if all, err := s.List(Secret); len(all) != 2 || err != nil {
				t.Errorf("list: %v, %v", all, err)
			}
			if wrong := s.Check(); len(wrong) != 1 {
				t.Errorf("check: %v", wrong)
			}
			if err := os.RemoveAll(s.keyPath()); err != nil {
				t.Fatal(err)
			}
			put(s.keyPath(), keyText)
			want(t, s, Secret, "a", "one")
			want(t, s, Secret, "b", "two")
		})
	}
	path := s.path(Secret, "a")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(s.path(Secret, "b"))
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string][]byte{
		"empty": nil, "cut": whole[:len(whole)/2], "zeros": make([]byte, len(whole)), "of another": b,
		"renamed": bytes.Replace(b, []byte(`"name":"b"`), []byte(`"name":"a"`), 1),
		"newer":   bytes.Replace(whole, []byte(`"version":1`), []byte(`"version":2`), 1),
	} {
		t.Run("file "+what, func(t *testing.T) {
			put(path, text)
			var damaged *DamagedError
			if _, _, err := s.Content(Secret, "a"); !errors.As(err, &damaged) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v", err)
			}
			if _, err := s.Create(t.Context(), Secret, "a", []byte("x"), CreateOptions{}); err == nil {
				t.Error("it was replaced unasked")
			}
			want(t, s, Secret, "b", "two")
			if wrong := s.Check(); len(wrong) != 1 || !errors.As(wrong[0], &damaged) {
				t.Errorf("check: %v", wrong)
			}
			_, err := s.Remove(t.Context(), Secret, "a", nobody, false)
			if (err == nil) != (what != "newer") {
				t.Errorf("remove: %v", err)
			}
			if what != "newer" {
				if _, err := os.Lstat(path); err == nil {
					t.Error("it is still there")
				}
			}
			put(path, whole)
			want(t, s, Secret, "a", "one")
		})
	}
	t.Run("a damaged one is replaced when asked", func(t *testing.T) {
		put(path, nil)
		if _, err := s.Create(t.Context(), Secret, "a", []byte("new"), CreateOptions{Replace: true}); err != nil {
			t.Error(err)
		}
		want(t, s, Secret, "a", "new")
	})
	t.Run("without the key, everything can be removed and begun again", func(t *testing.T) {
		os.Remove(s.keyPath())
		for _, name := range []string{"a", "b"} {
			if _, err := s.Remove(t.Context(), Secret, name, nobody, false); err != nil {
				t.Error(err)
			}
		}
		create(t, s, Secret, "a", "again")
		want(t, s, Secret, "a", "again")
	})
}

func TestCreatesAtOnce(t *testing.T) {
	s := Open(t.TempDir())
	var wg sync.WaitGroup
	made := make(chan string, 20)
	for i := range 20 {
		content := string(rune('a' + i))
		wg.Go(func() {
			_, err := Open(filepath.Dir(s.dir)).Create(context.Background(), Secret, "db", []byte(content), CreateOptions{})
			var exists *ExistsError
			switch {
			case err == nil:
				made <- content
			case !errors.As(err, &exists):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(made)
	if len(made) != 1 {
		t.Fatalf("%d were created", len(made))
	}
	want(t, s, Secret, "db", <-made)
}

func TestCopy(t *testing.T) {
	s := Open(t.TempDir())
	if _, err := s.Copy(Secret, "a", []byte("x")); err == nil {
		t.Error("a copy is sealed without a key")
	}
	if _, err := s.Create(t.Context(), Secret, "a", []byte("old"), CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	kept, err := s.Copy(Secret, "a", []byte("old"))
	if err != nil || strings.Contains(string(kept), "old") {
		t.Fatalf("%s, %v", kept, err)
	}
	if _, err := s.Create(t.Context(), Secret, "a", []byte("new"), CreateOptions{Replace: true}); err != nil {
		t.Fatal(err)
	}
	if content, err := s.OpenCopy(Secret, "a", kept); err != nil || string(content) != "old" {
		t.Errorf("%q, %v", content, err)
	}
	for what, open := range map[string]func() ([]byte, error){
		"another name": func() ([]byte, error) { return s.OpenCopy(Secret, "b", kept) },
		"another kind": func() ([]byte, error) { return s.OpenCopy(Config, "a", kept) },
		"a damaged one": func() ([]byte, error) {
			return s.OpenCopy(Secret, "a", []byte(strings.Replace(string(kept), `"sealed":"`, `"sealed":"AAAA`, 1)))
		},
		"nothing": func() ([]byte, error) { return s.OpenCopy(Secret, "a", nil) },
	} {
		if content, err := open(); err == nil {
			t.Errorf("%s gives %q", what, content)
		}
	}
}

func TestKeyDigest(t *testing.T) {
	dir := t.TempDir()
	one, another := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	s := Open(dir)
	digest := func(of string) string {
		t.Helper()
		d, err := s.KeyDigest(t.Context(), of)
		if err != nil || strings.Contains(d, of) {
			t.Fatalf("%q, %v", d, err)
		}
		return d
	}
	var all [8]string
	var wg sync.WaitGroup
	for i := range all { // of several at once one makes the key
		wg.Go(func() { all[i], _ = Open(dir).KeyDigest(t.Context(), one) })
	}
	wg.Wait()
	for _, d := range all {
		if d != digest(one) || d == digest(another) {
			t.Errorf("%q and %q", d, digest(one))
		}
	}
	path := filepath.Join(dir, Dir, digestsName)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	before := digest(one)
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if after := digest(one); after == before || digest(one) != after {
		t.Error("no other key has taken the place of a damaged one")
	}
	if _, err := s.Create(t.Context(), Secret, "a", []byte("x"), CreateOptions{}); err != nil {
		t.Error(err)
	}
}
