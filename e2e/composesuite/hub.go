package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// hub answers as Docker Hub does to those who pull.
type hub struct {
	blobs map[digest.Digest]blob
	tags  map[string]map[string]digest.Digest // repository → tag
}

func newHub(images []image) (*hub, error) {
	h := &hub{blobs: map[digest.Digest]blob{}, tags: map[string]map[string]digest.Digest{}}
	for _, i := range images {
		if err := h.publish(i); err != nil {
			return nil, fmt.Errorf("cannot serve %s: %w", i.Names[0], err)
		}
	}
	return h, nil
}

const (
	hubName  = "registry-1.docker.io"
	authName = "auth.docker.io"
)

// ServeHTTP implements http.Handler for the pulling part of the distribution
// specification. Who asks for a repository that does not exist is told to log in, as
// Docker Hub tells everybody who may not know whether it exists.
func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.Host, authName) {
		answer(w, http.StatusOK, map[string]any{"token": "anonymous", "access_token": "anonymous", "expires_in": 300})
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	repository, kind, name := split(path)
	tags := h.tags[repository]
	if r.Header.Get("Authorization") == "" || path != "" && tags == nil || r.Method != http.MethodGet && r.Method != http.MethodHead {
		challenge := fmt.Sprintf(`Bearer realm="https://%s/token",service="registry.docker.io"`, authName)
		if repository != "" {
			challenge += fmt.Sprintf(`,scope="repository:%s:pull"`, repository)
		}
		if r.Header.Get("Authorization") != "" {
			challenge += `,error="insufficient_scope"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return
	}
	switch kind {
	case "":
		answer(w, http.StatusOK, struct{}{})
	case "manifests":
		sum := digest.Digest(name)
		if !strings.Contains(name, ":") {
			sum = tags[name]
		}
		h.serve(w, r, sum, "MANIFEST_UNKNOWN", "manifest unknown")
	case "blobs":
		h.serve(w, r, digest.Digest(name), "BLOB_UNKNOWN", "blob unknown to registry")
	default:
		refuse(w, http.StatusNotFound, "UNSUPPORTED", "not served here")
	}
}

// split takes a path such as library/alpine/manifests/3.20 apart.
func split(path string) (repository, kind, name string) {
	parts := strings.Split(path, "/")
	if len(parts) < 3 {
		return "", "", ""
	}
	return strings.Join(parts[:len(parts)-2], "/"), parts[len(parts)-2], parts[len(parts)-1]
}

func (h *hub) serve(w http.ResponseWriter, r *http.Request, sum digest.Digest, code, message string) {
	b, ok := h.blobs[sum]
	if !ok {
		refuse(w, http.StatusNotFound, code, message)
		return
	}
	content, err := b.open()
	if err != nil {
		refuse(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	defer content.Close()
	w.Header().Set("Content-Type", b.kind)
	w.Header().Set("Docker-Content-Digest", sum.String())
	http.ServeContent(w, r, "", time.Time{}, content)
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}
