package supervise

import (
	"context"
	"encoding/json"
	"net/http/httptest"
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
