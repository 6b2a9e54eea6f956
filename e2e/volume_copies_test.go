package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// volumeData is where a volume's content lies on the host.
func (b *box) volumeData(name string) string {
	return filepath.Join(b.dataRoot(), "volumes", name, "_data")
}

// describeTree lists all that a copy must have in common with what it was made from.
func describeTree(t *testing.T, root string) string {
	t.Helper()
	var out strings.Builder
	first := map[uint64]string{}
	must(t, filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		fmt.Fprintf(&out, "%s %o %d:%d %v %d", rel, st.Mode, st.Uid, st.Gid, st.Mtim, st.Rdev)
		names := make([]byte, 1000)
		n, _ := unix.Llistxattr(p, names)
		for name := range strings.SplitSeq(strings.Trim(string(names[:max(n, 0)]), "\x00"), "\x00") {
			value := make([]byte, 1000)
			n, _ := unix.Lgetxattr(p, name, value)
			fmt.Fprintf(&out, " %s=%q", name, value[:max(n, 0)])
		}
		if link, err := os.Readlink(p); err == nil {
			fmt.Fprintf(&out, " -> %s", link)
		}
		if e.Type().IsRegular() {
			if same, seen := first[st.Ino]; seen {
				fmt.Fprintf(&out, " is %s", same)
			}
			first[st.Ino] = rel
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %q", text)
		}
		fmt.Fprintln(&out)
		return nil
	}))
	return out.String()
}

func (b *box) sameTree(t *testing.T, want, got string) {
	t.Helper()
	if want, got := describeTree(t, b.volumeData(want)), describeTree(t, b.volumeData(got)); want != got {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// onlyVolumes tells whether the store has these volumes and nothing else.
func (b *box) onlyVolumes(t *testing.T, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(b.dataRoot(), "volumes"))
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the store has %q, must have %q", got, want)
	}
}

// busy fills a volume with what is easily lost on the way.
const busy = `
	cd /v; chown 70:70 .; chmod 1750 .
	echo secret > key; chown 70:71 key; chmod 4640 key; ln key again
	mkdir -p deep/er; chmod 2700 deep; ln -s ../key deep/rel; ln -s /etc/passwd deep/abs; ln -s /nowhere deep/er/dangling
	echo marked > .wh.file; mkfifo pipe; chown -h 5:6 deep/abs; touch -d '2001-02-03 04:05:06' key deep/er
	head -c 3000000 /dev/zero > holes; echo end >> holes`

func TestVolumeExportAndImport(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.ok(t, "container", "run", "--rm", "--network", "none", "--volume", "from:/v", "busybox", "sh", "-c", busy)
	must(t, unix.Setxattr(filepath.Join(b.volumeData("from"), "key"), "user.note", []byte("a note"), 0))
	must(t, unix.Setxattr(filepath.Join(b.volumeData("from"), "deep"), "trusted.note", []byte("a\x00b"), 0))

	b.ok(t, "volume", "export", "--output", "backup.tar", "from")
	archive, err := os.ReadFile(filepath.Join(b.dir, "backup.tar"))
	must(t, err)
	if i, err := os.Stat(filepath.Join(b.dir, "backup.tar")); err != nil || i.Mode() != 0o600 {
		t.Errorf("others may read the backup: %v, %v", i.Mode(), err)
	}
	must(t, unix.Mknod(filepath.Join(b.dir, "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	b.ok(t, "volume", "export", "--output", "null", "from")
	if i, err := os.Stat(filepath.Join(b.dir, "null")); err != nil || i.Mode()&os.ModeDevice == 0 {
		t.Errorf("a device was replaced by a file: %v, %v", i.Mode(), err)
	}
	t.Run("a volume that is made has all that the other one had", func(t *testing.T) {
		b.ok(t, "volume", "import", "made", "backup.tar")
		b.sameTree(t, "from", "made")
	})
	t.Run("from stdin, compressed", func(t *testing.T) {
		script := fmt.Sprintf("%s volume export from | gzip | %s volume import piped -", quote(b.command(t.Context()).Path), quote(b.command(t.Context()).Path))
		sh := b.command(t.Context())
		sh.Path, sh.Args = "/bin/sh", []string{"sh", "-c", script}
		if out, err := sh.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		b.sameTree(t, "from", "piped")
	})
	t.Run("cp", func(t *testing.T) {
		b.ok(t, "volume", "cp", "from", "copied")
		b.sameTree(t, "from", "copied")
		must(t, os.WriteFile(filepath.Join(b.volumeData("copied"), "key"), []byte("other\n"), 0))
		if text, err := os.ReadFile(filepath.Join(b.volumeData("from"), "key")); err != nil || string(text) != "secret\n" {
			t.Errorf("the copy shares its content: %q, %v", text, err)
		}
	})
	t.Run("a volume with content stays", func(t *testing.T) {
		if r := b.input(t, string(archive), "volume", "import", "copied"); r.code == 0 || !strings.Contains(r.stderr, "--force") {
			t.Error(r)
		}
		if r := b.fails(t, "volume", "cp", "from", "copied"); !strings.Contains(r.stderr, "not empty") {
			t.Error(r)
		}
	})
	t.Run("or is replaced", func(t *testing.T) {
		must(t, os.WriteFile(filepath.Join(b.volumeData("copied"), "extra"), nil, 0o600))
		b.ok(t, "volume", "import", "--force", "copied", "backup.tar")
		b.sameTree(t, "from", "copied")
	})
	t.Run("what a container has mounted is not exchanged below it", func(t *testing.T) {
		b.ok(t, "container", "run", "--detach", "--init", "--network", "none", "--name", "db", "--volume", "piped:/v", "busybox", "sleep", "infinity")
		if r := b.fails(t, "volume", "import", "--force", "piped", "backup.tar"); !strings.Contains(r.stderr, "db runs") {
			t.Error(r)
		}
		b.ok(t, "container", "stop", "--timeout", "0", "db")
		must(t, os.Remove(filepath.Join(b.volumeData("piped"), "key")))
		b.ok(t, "volume", "import", "--force", "piped", "backup.tar")
		b.ok(t, "container", "start", "db")
		if out := b.ok(t, "container", "exec", "db", "cat", "/v/key"); out != "secret\n" {
			t.Errorf("%q", out)
		}
		b.ok(t, "container", "rm", "--force", "db")
	})
	t.Run("nor below one that is started meanwhile", func(t *testing.T) {
		b.ok(t, "container", "create", "--init", "--network", "none", "--name", "db", "--volume", "piped:/v", "busybox", "sleep", "infinity")
		imported := 0
		for i := range 20 {
			j := b.start(t, "volume", "import", "--force", "piped", "backup.tar")
			for range i {
				b.ok(t, "volume", "ls") // the later it starts
			}
			b.ok(t, "container", "start", "db")
			if j.wait(t, 20*time.Second) == 0 {
				imported++
			} else if !strings.Contains(j.out.String(), "db runs") {
				t.Error(j.out.String())
			}
			mark := fmt.Sprintf("mark%d", i)
			b.ok(t, "container", "exec", "db", "touch", "/v/"+mark)
			if !exists(filepath.Join(b.volumeData("piped"), mark)) {
				t.Error("it has something else mounted than the volume")
			}
			b.ok(t, "container", "stop", "--timeout", "0", "db")
		}
		t.Logf("imported %d of 20 times", imported)
		b.ok(t, "container", "rm", "--force", "db")
	})
	t.Run("driver_opts", func(t *testing.T) {
		b.ok(t, "volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", "device="+b.volumeData("from"), "bound")
		if r := b.fails(t, "volume", "import", "--force", "bound", "backup.tar"); !strings.Contains(r.stderr, b.volumeData("from")) {
			t.Error(r)
		}
		b.ok(t, "volume", "cp", "bound", "plain")
		b.sameTree(t, "from", "plain")
		b.ok(t, "volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "memory")
		if r := b.fails(t, "volume", "export", "memory"); !strings.Contains(r.stderr, "only while") {
			t.Error(r)
		}
		b.ok(t, "container", "run", "--detach", "--init", "--network", "none", "--name", "m", "--volume", "memory:/v", "busybox", "sh", "-c", "echo here > /v/f; sleep infinity")
		eventually(t, 10*time.Second, func() error {
			if r := b.stack(t, "container", "exec", "m", "test", "-s", "/v/f"); r.code != 0 {
				return errors.New("nothing is written yet")
			}
			return nil
		})
		r := b.stack(t, "volume", "cp", "memory", "disk")
		if text, err := os.ReadFile(filepath.Join(b.volumeData("disk"), "f")); err != nil || string(text) != "here\n" || !strings.Contains(r.stderr, "m may write") {
			t.Errorf("%q, %v, %v", text, err, r)
		}
		b.ok(t, "container", "rm", "--force", "m")
	})
	b.onlyVolumes(t, "bound", "copied", "disk", "from", "made", "memory", "piped", "plain")
	b.ok(t, "volume", "rm", "bound", "copied", "disk", "from", "made", "memory", "piped", "plain")
	b.nothingLeft(t, b.before, "file app/", "file data/")
}

func archiveOf(t *testing.T, headers ...*tar.Header) string {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = 4
		}
		must(t, w.WriteHeader(h))
		if h.Typeflag == tar.TypeReg {
			_, err := w.Write([]byte("evil"))
			must(t, err)
		}
	}
	must(t, w.Close())
	return out.String()
}

func TestVolumeImportOfHostileArchives(t *testing.T) {
	b := newBox(t)
	outside := filepath.Join(b.dir, "outside")
	must(t, os.Mkdir(outside, 0o755))
	kept := b.write(t, "outside/kept", "the host's")
	b.ok(t, "volume", "import", "v", b.write(t, "good.tar", archiveOf(t, &tar.Header{Typeflag: tar.TypeReg, Name: "good", Mode: 0o600})))
	before := describeTree(t, b.volumeData("v"))
	reg := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o666} }
	link := func(kind byte, name, to string) *tar.Header {
		return &tar.Header{Typeflag: kind, Name: name, Linkname: to, Mode: 0o666}
	}
	whole := archiveOf(t, reg("a"), reg("b"))
	for name, bad := range map[string]string{
		"names that lead out":    archiveOf(t, reg("a"), reg("../../../../../../evil")),
		"a root that is a link":  archiveOf(t, link(tar.TypeSymlink, ".", outside)),
		"a hard link to outside": archiveOf(t, link(tar.TypeLink, "l", kept)),
		"one by a link":          archiveOf(t, link(tar.TypeSymlink, "l", outside), link(tar.TypeLink, "h", "l/kept")),
		"one that leads out":     archiveOf(t, link(tar.TypeLink, "l", "../../../../app/outside/kept")),
		"an end that is missing": whole[:len(whole)-1024],
		"half a file":            whole[:600],
		"two archives":           whole + whole,
		"no archive":             strings.Repeat("no archive\n", 1000),
		"nothing":                "",
	} {
		for _, target := range []string{"v", "fresh"} {
			if r := b.input(t, bad, "volume", "import", "--force", target); r.code == 0 || !strings.Contains(r.stderr, "nothing was changed") {
				t.Errorf("%s: %v", name, r)
			}
		}
	}
	if after := describeTree(t, b.volumeData("v")); after != before {
		t.Errorf("was\n%s\nis\n%s", before, after)
	}
	b.onlyVolumes(t, "v")

	t.Run("links stay in the volume", func(t *testing.T) {
		in := archiveOf(t, link(tar.TypeSymlink, "l", outside), reg("l/through"), link(tar.TypeSymlink, "up", "../../../.."), reg("up/evil"), reg("/etc/absolute"),
			link(tar.TypeSymlink, "kept", kept), reg("kept"),
			&tar.Header{Typeflag: tar.TypeChar, Name: "mem", Mode: 0o666, Devmajor: 1, Devminor: 1}, &tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Mode: 0o666, Devmajor: 254})
		r := b.input(t, in, "volume", "import", "--force", "v")
		if r.code != 0 || !strings.Contains(r.stderr, "2 devices of the archive were left out") {
			t.Error(r)
		}
		for _, inside := range []string{"evil", "etc/absolute", outside + "/through", "kept"} {
			if i, err := os.Lstat(filepath.Join(b.volumeData("v"), inside)); err != nil || !i.Mode().IsRegular() {
				t.Errorf("%s: %v, %v", inside, i, err)
			}
		}
		if exists(filepath.Join(b.volumeData("v"), "mem")) {
			t.Error("a device was made")
		}
		if out := describeTree(t, outside); strings.Contains(out, "evil") || exists("/evil") {
			t.Errorf("it got out: %s", out)
		}
		b.input(t, in, "volume", "import", "--force", "--devices", "v")
		if !exists(filepath.Join(b.volumeData("v"), "mem")) {
			t.Error("no device was made")
		}
	})
	b.onlyVolumes(t, "v")
}

// killedAt runs a command and kills it after a while. It returns false once the command
// ends before that.
func (b *box) killedAt(t *testing.T, after time.Duration, args ...string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), after)
	defer cancel()
	err := b.command(ctx, args...).Run()
	if err != nil && ctx.Err() == nil {
		t.Errorf("stack %s: %v", strings.Join(args, " "), err)
	}
	return ctx.Err() != nil
}

func TestVolumeVerbsAreKilled(t *testing.T) {
	b := newBox(t)
	var entries [2][]*tar.Header
	for i := range 600 {
		for which, dir := range []string{"one", "two"} {
			entries[which] = append(entries[which], &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%s/%d", dir, i), Mode: 0o600})
		}
	}
	b.write(t, "one.tar", archiveOf(t, entries[0]...))
	b.write(t, "two.tar", archiveOf(t, entries[1]...))
	b.ok(t, "volume", "import", "v", "one.tar")
	// has says which of the archives a volume holds, whole.
	has := func(t *testing.T, volume string) string {
		t.Helper()
		var dirs []string
		top, err := os.ReadDir(b.volumeData(volume))
		must(t, err)
		for _, e := range top {
			inside, err := os.ReadDir(filepath.Join(b.volumeData(volume), e.Name()))
			must(t, err)
			if len(inside) != 600 {
				t.Errorf("%s has %d of 600 files of %s", volume, len(inside), e.Name())
			}
			dirs = append(dirs, e.Name())
		}
		return strings.Join(dirs, " ")
	}
	t.Run("an import leaves the old or the new content", func(t *testing.T) {
		old := "one"
		killed := 0
		for after := time.Millisecond; ; after += after/8 + time.Millisecond {
			next := map[string]string{"one": "two", "two": "one"}[old]
			cut := b.killedAt(t, after, "volume", "import", "--force", "v", next+".tar")
			got := has(t, "v")
			if got != old && got != next {
				t.Fatalf("after %v it has %q", after, got)
			}
			if !cut {
				if got != next {
					t.Errorf("it says that it is done and has %q", got)
				}
				break
			}
			killed++
			old = got
		}
		t.Logf("killed %d times", killed)
	})
	t.Run("a copy is whole or not there", func(t *testing.T) {
		for after := time.Millisecond; ; after += after/8 + time.Millisecond {
			cut := b.killedAt(t, after, "volume", "cp", "v", "w")
			if r := b.stack(t, "volume", "inspect", "w"); r.code == 0 {
				if w, v := has(t, "w"), has(t, "v"); w != v {
					t.Errorf("the copy has %q, not %q", w, v)
				}
				b.ok(t, "volume", "rm", "w")
			} else if !cut {
				t.Error("there is no copy")
			}
			if !cut {
				break
			}
		}
	})
	t.Run("a rename leaves the old or the new name", func(t *testing.T) {
		names := []string{"v", "w"}
		done := 0
		for after := 500 * time.Microsecond; done < 3; after += 300 * time.Microsecond {
			if !b.killedAt(t, after, "volume", "rename", names[0], names[1]) {
				done++
			}
			out := strings.Fields(b.ok(t, "volume", "ls", "--quiet"))
			if len(out) != 1 || out[0] != names[0] && out[0] != names[1] {
				t.Fatalf("after %v there is %q", after, out)
			}
			has(t, out[0])
			if out[0] == names[1] {
				names[0], names[1] = names[1], names[0]
			}
		}
		b.stack(t, "volume", "rename", "w", "v")
	})
	t.Run("what is in the making goes, but not while it is made", func(t *testing.T) {
		archive, err := os.ReadFile(filepath.Join(b.dir, "one.tar"))
		must(t, err)
		j := b.start(t, "volume", "import", "late")
		_, err = j.stdin.Write(archive[:len(archive)/2])
		must(t, err)
		aside := func() int {
			found, err := filepath.Glob(filepath.Join(b.dataRoot(), "volumes", ".fill-*", "_data", "one", "100"))
			must(t, err)
			return len(found)
		}
		eventually(t, 10*time.Second, func() error {
			if aside() != 1 {
				return errors.New("nothing is unpacked")
			}
			return nil
		})
		b.ok(t, "system", "check", "--repair")
		b.ok(t, "volume", "prune", "--force")
		if aside() != 1 {
			t.Fatal("it was swept away")
		}
		j.signal(t, unix.SIGKILL)
		j.wait(t, 5*time.Second)
		b.ok(t, "system", "check", "--repair")
		b.onlyVolumes(t, "v")

		// One that is told to end cleans up by itself.
		j = b.start(t, "volume", "import", "late")
		_, err = j.stdin.Write(archive[:len(archive)/2])
		must(t, err)
		eventually(t, 10*time.Second, func() error {
			if aside() != 1 {
				return errors.New("nothing is unpacked")
			}
			return nil
		})
		j.signal(t, unix.SIGINT)
		if code := j.wait(t, 5*time.Second); code == 0 {
			t.Error("it says that it is done")
		}
		b.onlyVolumes(t, "v")
	})
}

// writer counts in many files, one after the other: at one moment all have the same
// number, but for those that it has not come to.
const writer = `head -c 60000000 /dev/zero > /v/large; i=0; while i=$((i+1)); do for f in 00 01 02 03 04 05 06 07 08 09; do echo $i > /v/new; mv /v/new /v/$f; done; done`

// ofOneMoment tells whether a volume is as the writer had it at one moment.
func (b *box) ofOneMoment(t *testing.T, volume string) {
	t.Helper()
	var numbers []int
	for f := range 10 {
		text, err := os.ReadFile(filepath.Join(b.volumeData(volume), fmt.Sprintf("%02d", f)))
		must(t, err)
		var n int
		_, err = fmt.Sscan(string(text), &n)
		must(t, err)
		if f > 0 && n > numbers[f-1] || f > 0 && numbers[0]-n > 1 {
			t.Errorf("%s is of several moments: %v, %d", volume, numbers, n)
		}
		numbers = append(numbers, n)
	}
}

func TestVolumeIsReadWhileItIsWrittenTo(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			db:
				image: busybox
				init: true
				network_mode: none
				command: ["sh", "-c", `+fmt.Sprintf("%q", strings.ReplaceAll(writer, "$", "$$"))+`]
				volumes: ["data:/v"]
		volumes:
			data: {labels: {kind: precious}}
	`)
	b.ok(t, "up", "--detach")
	eventually(t, 20*time.Second, func() error {
		if r := b.stack(t, "exec", "-T", "db", "test", "-e", "/v/09"); r.code != 0 {
			return errors.New("it has not begun")
		}
		return nil
	})
	runsOn := func(t *testing.T) {
		t.Helper()
		before := b.ok(t, "exec", "-T", "db", "cat", "/v/09")
		eventually(t, 20*time.Second, func() error {
			if b.ok(t, "exec", "-T", "db", "cat", "/v/09") == before {
				return errors.New("it does not go on")
			}
			return nil
		})
	}
	t.Run("with --pause all is of one moment", func(t *testing.T) {
		for i := range 3 {
			copied := fmt.Sprintf("copy%d", i)
			if r := b.stack(t, "volume", "cp", "--pause", "app_data", copied); r.code != 0 || r.stderr != "" {
				t.Fatal(r)
			}
			b.ofOneMoment(t, copied)
			b.ok(t, "volume", "export", "--pause", "--output", "x.tar", "app_data")
			b.ok(t, "volume", "import", "--force", "imported", "x.tar")
			b.ofOneMoment(t, "imported")
		}
		runsOn(t)
	})
	t.Run("without it the writers are named", func(t *testing.T) {
		if r := b.stack(t, "volume", "cp", "app_data", "torn"); r.code != 0 || !strings.Contains(r.stderr, "app-db-1 may write") {
			t.Error(r)
		}
		runsOn(t)
	})
	t.Run("the copy is no project's", func(t *testing.T) {
		if out := b.ok(t, "volume", "inspect", "--format", "{{json .Labels}}", "torn"); out != `{"kind":"precious"}`+"\n" {
			t.Error(out)
		}
	})
	// rests has a paused export begin that waits for its reader.
	rests := func(t *testing.T) (kill func()) {
		t.Helper()
		ctx, cancel := context.WithCancel(context.Background())
		cmd := b.command(ctx, "volume", "export", "--pause", "app_data")
		r, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		_, err = io.ReadFull(r, make([]byte, 512))
		must(t, err)
		if !b.look(t, "app-db-1").State.Paused {
			t.Error("it does not rest")
		}
		return func() { cancel(); cmd.Wait() }
	}
	t.Run("a killed command leaves nobody paused", func(t *testing.T) {
		rests(t)()
		b.eventuallyState(t, "app-db-1", "running")
		runsOn(t)
	})
	t.Run("who unpauses is told of, and heeded", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		cmd := b.command(ctx, "volume", "export", "--pause", "app_data")
		r, err := cmd.StdoutPipe()
		must(t, err)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		must(t, cmd.Start())
		_, err = io.ReadFull(r, make([]byte, 512))
		must(t, err)
		b.ok(t, "unpause")
		_, err = io.Copy(io.Discard, r)
		must(t, err)
		if err := cmd.Wait(); err == nil || !strings.Contains(errs.String(), "app-db-1 was to be paused") {
			t.Errorf("%v: %s", err, errs.String())
		}
		runsOn(t)
	})
	t.Run("a killed supervisor changes nothing", func(t *testing.T) {
		kill := rests(t)
		b.killKeepers(t, "app", "supervisor")
		b.eventuallyKept(t, "app")
		if !b.look(t, "app-db-1").State.Paused {
			t.Error("it does not rest any more")
		}
		kill()
		b.ok(t, "unpause")
		runsOn(t)
	})
	b.ok(t, "down", "--volumes", "--timeout", "0")
	b.ok(t, "volume", "prune", "--all", "--force")
	b.nothingLeft(t, b.before, "file app/", "file data/")
}

func TestVolumeRename(t *testing.T) {
	b := newBox(t, "busybox:latest")
	project := func(name string) {
		b.compose(t, `
			name: app
			services:
				db:
					image: busybox
					init: true
					network_mode: none
					command: ["sleep", "infinity"]
					volumes: ["data:/v"]
			volumes:
				data: {`+name+`}
		`)
	}
	project("")
	b.ok(t, "up", "--detach")
	b.ok(t, "exec", "-T", "db", "sh", "-c", "echo precious > /v/f")
	refused := func(t *testing.T, says string, args ...string) {
		t.Helper()
		if r := b.fails(t, append([]string{"volume", "rename"}, args...)...); !strings.Contains(r.stderr, says) {
			t.Errorf("%v, must say %q", r, says)
		}
	}
	t.Run("not below a container, running or stopped", func(t *testing.T) {
		refused(t, "app-db-1", "--force", "app_data", "new")
		b.ok(t, "stop", "--timeout", "0")
		refused(t, "app-db-1", "--force", "app_data", "new")
	})
	b.ok(t, "down")
	t.Run("not unasked where the next up would make an empty one", func(t *testing.T) {
		refused(t, `"name: new" for volumes.data`, "app_data", "new")
	})
	t.Run("the project finds it under its new name", func(t *testing.T) {
		project("name: new")
		b.ok(t, "volume", "rename", "--force", "app_data", "new")
		r := b.stack(t, "up", "--detach")
		if out := b.ok(t, "exec", "-T", "db", "cat", "/v/f"); r.code != 0 || out != "precious\n" || strings.Contains(r.stderr, "used as it is") {
			t.Errorf("%q, %v", out, r)
		}
		b.onlyVolumes(t, "new")
		b.ok(t, "down", "--volumes", "--timeout", "0")
		b.onlyVolumes(t)
	})
	t.Run("names are checked", func(t *testing.T) {
		b.ok(t, "volume", "create", "a")
		b.ok(t, "volume", "create", "b")
		refused(t, "exists already", "a", "b")
		refused(t, "only letters", "a", "../c")
		refused(t, "does not exist", "../a", "c")
		refused(t, "does not exist", "c", "d")
		b.ok(t, "volume", "rename", "a", "c")
		b.onlyVolumes(t, "b", "c")
		b.ok(t, "volume", "rm", "b", "c")
	})
	b.nothingLeft(t, b.before, "file app/", "file data/")
}
