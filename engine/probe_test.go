package engine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/engine/runtime"
)

// This process stands for a container's: its network and its files are asked.
func TestProbesOfProcess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("entering a network namespace needs root")
	}
	st, err := runtime.ReadStat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	c := &Container{Spec: Spec{Name: "self"}, State: State{Pid: os.Getpid(), StartTicks: st.StartTicks}}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/early":
			w.WriteHeader(http.StatusEarlyHints)
		case "/ill":
			http.Error(w, "ill", http.StatusTeapot)
			return
		case "/slow":
			<-r.Context().Done()
		}
		fmt.Fprint(w, r.UserAgent())
	})
	plain, secret := httptest.NewServer(h), httptest.NewTLSServer(h)
	defer plain.Close()
	defer secret.Close()
	for _, server := range []string{plain.URL, secret.URL} {
		for path, want := range map[string]string{"/well?a=b": "200 OK", "/early": "200 OK", "/ill": "418 I'm a teapot: ill"} {
			said, err := askHTTP(t.Context(), c, server+path)
			if err != nil {
				said = err.Error()
			}
			if !strings.HasSuffix(said, want) || (err != nil) != (path == "/ill") {
				t.Errorf("%s: %q, %v", server+path, said, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := askHTTP(ctx, c, server+"/slow"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", server, err)
		}
		cancel()
	}
	if _, err := askTCP(t.Context(), c, strings.TrimPrefix(plain.URL, "http://")); err != nil {
		t.Error(err)
	}
	if _, err := (&filePoll{c: c, path: "/proc/version"}).ask(t.Context()); err != nil {
		t.Error(err)
	}
	// Its pid is another process' by now.
	c.State.StartTicks++
	for _, ask := range []func() (string, error){
		func() (string, error) { return askHTTP(t.Context(), c, plain.URL) },
		func() (string, error) { return (&filePoll{c: c, path: "/"}).ask(t.Context()) },
	} {
		if _, err := ask(); err == nil || !strings.Contains(err.Error(), "has ended") {
			t.Errorf("of another process: %v", err)
		}
	}
}
