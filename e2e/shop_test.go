package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// newShop returns a box with the example and its images. The page is at url.
func newShop(t *testing.T) (b *box, url string) {
	t.Helper()
	b = newBox(t, "postgres:15", "redis:7", "nginx:1.22", "shop-web", "shop-worker", "shop-migrate")
	for _, f := range []string{"compose.yaml", "proxy.conf"} {
		text, err := os.ReadFile(filepath.Join(shared.Module, "examples", "shop", f))
		must(t, err)
		b.write(t, f, string(text))
	}
	port := freePort(t)
	b = b.with("SHOP_PORT=" + port)
	return b, "http://127.0.0.1:" + port
}

func TestShop(t *testing.T) {
	newLAN(t)
	b, url := newShop(t)
	clean := snap(t, b)
	b.ok(t, "up", "--detach", "--wait")

	t.Run("the page shows items from the database", func(t *testing.T) {
		if page := fetch(t, url+"/"); !strings.Contains(page, "Teapot") {
			t.Errorf("no teapot on the page: %s", page)
		}
	})
	t.Run("the cache counts the visits", func(t *testing.T) {
		if visits(t, url)+1 != visits(t, url) {
			t.Error("two visits must be counted as two")
		}
	})
	t.Run("the migration ran once, before the web service began", func(t *testing.T) {
		migrate, web := b.look(t, "shop-migrate-1"), b.look(t, "shop-web-1")
		if migrate.State.Status != "exited" || migrate.State.ExitCode != 0 {
			t.Errorf("migrate is %s with exit code %d", migrate.State.Status, migrate.State.ExitCode)
		}
		if !migrate.State.FinishedAt.Before(web.State.StartedAt) {
			t.Errorf("migrate ended at %v, web began at %v", migrate.State.FinishedAt, web.State.StartedAt)
		}
	})
	t.Run("the worker ships an order", func(t *testing.T) {
		if o := order(t, url, "2", "3"); o.Status != "shipped" {
			t.Errorf("the order is %q", o.Status)
		}
	})
	t.Run("psql answers through pipes", func(t *testing.T) {
		r := b.stack(t, "exec", "db", "psql", "-U", "shop", "-c", "select 1")
		if r.code != 0 || !strings.Contains(r.stdout, "(1 row)") || strings.Contains(r.stdout, "\r") {
			t.Error(r)
		}
	})
	t.Run("psql answers on a terminal", func(t *testing.T) {
		out := b.terminal(t, "exec", "db", "psql", "-U", "shop", "-c", "select 1")
		if !strings.Contains(out, "(1 row)\r\n") {
			t.Errorf("psql wrote %q", out)
		}
	})
	t.Run("psql pages a long answer", func(t *testing.T) {
		cmd := b.command(t.Context(), "exec", "db", "psql", "-U", "shop", "-c", "select generate_series(1, 1000)")
		tty, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 80, Rows: 24})
		must(t, err)
		defer tty.Close()
		var out strings.Builder
		buf := make([]byte, 4096)
		for n := 0; err == nil; n, err = tty.Read(buf) {
			asked := strings.Contains(out.String(), ":")
			out.Write(buf[:n])
			if !asked && strings.Contains(out.String(), ":") { // the pager's prompt
				_, err := tty.WriteString("q")
				must(t, err)
			}
		}
		if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), " 3\r\n") || strings.Contains(out.String(), " 999\r\n") {
			t.Errorf("%v: psql wrote %q", err, out.String())
		}
	})
	t.Run("psql reads a file from standard input", func(t *testing.T) {
		file := b.write(t, "file.sql", "create table fed (n int);\ninsert into fed select generate_series(1, 1000);\nselect 'sum ' || sum(n) from fed;\n")
		f, err := os.Open(file)
		must(t, err)
		defer f.Close()
		out, code := b.fed(t, f, "exec", "-T", "db", "psql", "-U", "shop", "-v", "ON_ERROR_STOP=1", "-qAt")
		if code != 0 || strings.TrimSpace(out) != "sum 500500" {
			t.Errorf("exit %d: %s", code, out)
		}
	})
	t.Run("psql's exit code comes back", func(t *testing.T) {
		if r := b.stack(t, "exec", "-T", "db", "psql", "-U", "shop", "-c", "select nothing"); r.code != 1 {
			t.Error(r)
		}
	})
	t.Run("the database cannot be reached from the front network", func(t *testing.T) {
		if r := b.stack(t, "exec", "-T", "proxy", "getent", "hosts", "db"); r.code != 2 {
			t.Errorf("the name db must not be known: %v", r)
		}
		db := b.look(t, "shop-db-1").ip(t, "shop_back")
		if r := b.stack(t, "exec", "-T", "proxy", "timeout", "2", "bash", "-c", "exec 3<>/dev/tcp/"+db+"/5432"); r.code == 0 {
			t.Errorf("its address %s must not answer: %v", db, r)
		}
	})
	t.Run("nothing on the back network reaches out", func(t *testing.T) {
		if r := b.stack(t, "exec", "-T", "db", "timeout", "2", "bash", "-c", "exec 3<>/dev/tcp/"+lanV4+"/80"); r.code == 0 {
			t.Error(r)
		}
		if r := b.stack(t, "exec", "-T", "proxy", "timeout", "2", "bash", "-c", "exec 3<>/dev/tcp/"+lanV4+"/80"); r.code != 0 {
			t.Errorf("the front network must: %v", r)
		}
	})
	t.Run("down leaves the volume and nothing else, and up finds the data again", func(t *testing.T) {
		o := order(t, url, "1", "2")
		b.ok(t, "down")
		b.nothingLeft(t, clean, volumeFile("shop_data"))
		b.ok(t, "up", "--detach", "--wait")
		if body := fetch(t, url+"/orders/"+o.ID); !strings.Contains(body, "shipped") {
			t.Errorf("the order is forgotten: %s", body)
		}
	})
	t.Run("in user namespaces all of it works, on the same data", func(t *testing.T) {
		o := order(t, url, "1", "2")
		var over strings.Builder
		over.WriteString("services:\n")
		for _, service := range []string{"proxy", "web", "worker", "migrate", "db", "cache"} {
			fmt.Fprintf(&over, "  %s: {userns_mode: auto}\n", service)
		}
		b.write(t, "compose.override.yaml", over.String())
		b.ok(t, "up", "--detach", "--wait")
		if body := fetch(t, url+"/orders/"+o.ID); !strings.Contains(body, "shipped") {
			t.Errorf("the order is forgotten: %s", body)
		}
		if o := order(t, url, "2", "3"); o.Status != "shipped" {
			t.Errorf("the order is %q", o.Status)
		}
		for name, p := range b.pids(t) {
			st, err := os.Stat(fmt.Sprintf("/proc/%d", p.PID))
			must(t, err)
			if uid := st.Sys().(*syscall.Stat_t).Uid; uid < 1<<20 {
				t.Errorf("%s runs as user %d of the host", name, uid)
			}
		}
	})
	t.Run("down with volumes leaves nothing", func(t *testing.T) {
		b.ok(t, "down", "--volumes")
		b.nothingLeft(t, clean)
	})
}

// visits fetches the page and returns the visitor's number.
func visits(t *testing.T, url string) int {
	t.Helper()
	page := fetch(t, url+"/")
	_, rest, _ := strings.Cut(page, "You are visitor ")
	var n int
	if _, err := fmt.Sscanf(rest, "%d", &n); err != nil {
		t.Fatalf("the page has no visitor number: %s", page)
	}
	return n
}

type shopOrder struct{ ID, Status string }

// order orders an item and waits until a worker has taken the order.
func order(t *testing.T, shop, item, quantity string) shopOrder {
	t.Helper()
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.PostForm(shop+"/orders", url.Values{"item": {item}, "quantity": {quantity}})
	must(t, err)
	defer resp.Body.Close()
	client.CloseIdleConnections()
	var o shopOrder
	must(t, json.NewDecoder(resp.Body).Decode(&o))
	eventually(t, 10*time.Second, func() error {
		body, err := get(shop + "/orders/" + o.ID)
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(body), &o); err != nil {
			return err
		}
		if o.Status == "queued" {
			return errors.New("the order is still queued")
		}
		return nil
	})
	return o
}

// terminal runs a command on a pseudo-terminal of 80×24 and returns what it wrote.
func (b *box) terminal(t *testing.T, args ...string) string {
	t.Helper()
	cmd := b.command(t.Context(), args...)
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 80, Rows: 24})
	must(t, err)
	defer tty.Close()
	out, _ := io.ReadAll(tty) // EIO is how a terminal says that all programs are gone
	if err := cmd.Wait(); err != nil {
		t.Fatalf("stack %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// fed runs a command with a file as its standard input.
func (b *box) fed(t *testing.T, in *os.File, args ...string) (stdout string, code int) {
	t.Helper()
	cmd := b.command(t.Context(), args...)
	var out strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &out
	code, err := exitCode(cmd.Run())
	must(t, err)
	return out.String(), code
}

// ufw drops what is forwarded, but containers have their network all the same, and `up`
// says what admits others to the page.
func TestShopBehindUFW(t *testing.T) {
	if _, err := exec.LookPath("iptables-restore"); err != nil {
		t.Skip("needs iptables")
	}
	lan := newLAN(t)
	b, url := newShop(t)
	rules, err := os.Open(filepath.Join(shared.Module, "netns", "testdata", "ufw.rules"))
	must(t, err)
	defer rules.Close()
	restore := exec.Command("iptables-restore")
	restore.Stdin = rules
	if out, err := restore.CombinedOutput(); err != nil {
		t.Skipf("%v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("nft", "delete", "table", "ip", "filter").Run() })
	r := b.stack(t, "up", "--detach", "--wait")
	_, port, _ := strings.Cut(strings.TrimPrefix(url, "http://"), ":")
	if r.code != 0 || !strings.Contains(r.stderr, "ufw route allow proto tcp") {
		t.Fatal(r)
	}
	if page := fetch(t, url+"/"); !strings.Contains(page, "Teapot") {
		t.Errorf("no teapot on the page: %s", page)
	}
	outside := "http://" + hostV4 + ":" + port + "/"
	if page, err := lan.get(outside); err == nil {
		t.Errorf("ufw does not admit the port, and it is reached from outside: %s", page)
	}
	if r := b.stack(t, "exec", "-T", "proxy", "timeout", "5", "bash", "-c", "exec 3<>/dev/tcp/"+lanV4+"/80"); r.code != 0 {
		t.Errorf("a container does not reach others: %v", r)
	}
	// What ufw makes of the command that it was told, which is not installed here.
	proxy := b.look(t, "shop-proxy-1").ip(t, "shop_front")
	if out, err := exec.Command("iptables", "-A", "ufw-user-forward", "-p", "tcp", "-d", proxy, "--dport", "80", "-j", "ACCEPT").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	eventually(t, 5*time.Second, func() error {
		page, err := lan.get(outside)
		if err == nil && !strings.Contains(page, "Teapot") {
			err = fmt.Errorf("no teapot on the page: %s", page)
		}
		return err
	})
	b.ok(t, "down", "--volumes")
}
