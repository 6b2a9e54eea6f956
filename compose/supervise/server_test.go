package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stack-run/stack/engine"
)

func TestNobodyIsToldAfterTheAnswer(t *testing.T) {
	s, _ := supervised(t, &fakeRunner{}, engine.Spec{})
	w := httptest.NewRecorder()
	var late *reply
	s.answer(w, httptest.NewRequest("POST", "/v1/x", strings.NewReader("{}")), func(_ context.Context, _ json.RawMessage, r *reply) (any, error) {
		late = r
		r.event("Project", s.realm, "Warning", "in time", false)
		return nil, nil
	})
	late.event("Project", s.realm, "Warning", "too late", false)
	if body := w.Body.String(); !strings.Contains(body, "in time") || strings.Contains(body, "too late") {
		t.Errorf("it was told: %s", body)
	}
}

// What fails because the supervisor leaves is no answer: the client asks the next one.
func TestALeavingSupervisorGivesNoAnswer(t *testing.T) {
	s, _ := supervised(t, &fakeRunner{}, engine.Spec{})
	w := httptest.NewRecorder()
	defer func() {
		if fault := recover(); fault != http.ErrAbortHandler {
			t.Errorf("the connection is not cut off: %v", fault)
		}
		if body := w.Body.String(); body != "" {
			t.Errorf("it was told: %s", body)
		}
	}()
	s.answer(w, httptest.NewRequest("POST", "/v1/x", strings.NewReader("{}")), func(_ context.Context, _ json.RawMessage, r *reply) (any, error) {
		s.leaving.Store(true)
		r.event("Container", "shop-web-1", "Error", "it leaves", true)
		return nil, errLeaves
	})
}

func TestWhoWaitsForASupervisorThatCannotWorkIsToldWhy(t *testing.T) {
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, socketName)})
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answers := make(chan string)
	ask := func() {
		conn, err := net.Dial("unix", filepath.Join(dir, socketName))
		if err != nil {
			t.Error(err)
		}
		defer conn.Close()
		req := httptest.NewRequest("POST", "/v1/apply", strings.NewReader("{}"))
		if err := req.Write(conn); err != nil {
			t.Error(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), req)
		if err != nil {
			answers <- err.Error()
			return
		}
		final, err := readAnswer(resp.Body, nil)
		if err != nil {
			answers <- err.Error()
			return
		}
		answers <- final.Error
	}
	go ask()
	go ask()
	refuse(&Keeper{held: map[string]*os.File{listenerName: f}}, errors.New("no room"))
	for range 2 {
		if got := <-answers; got != "no room" {
			t.Errorf("the answer is %q", got)
		}
	}
}
