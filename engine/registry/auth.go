package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// authorize answers challenges with an Authorization header, "" if there are no
// credentials to answer them with. A token is taken before the password itself,
// whichever the registry names first.
func (c *Client) authorize(ctx context.Context, e *endpoint, challenges []challenge, scope string) (string, error) {
	var unusable error
	for _, ch := range challenges {
		if ch.scheme != "bearer" {
			continue
		}
		realm, err := url.Parse(ch.params["realm"])
		if err == nil && realm.Host != "" {
			return c.token(ctx, e, ch, realm, scope)
		}
		unusable = fmt.Errorf("cannot log in to registry %s: it names no token server", e)
	}
	for _, ch := range challenges {
		if ch.scheme != "basic" {
			continue
		}
		cred, err := c.creds.Get(ctx, e.registry)
		if err != nil || cred.Username == "" {
			return "", err
		}
		return basic(cred), nil
	}
	return "", unusable
}

func basic(cred Credential) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(cred.Username+":"+cred.Password))
}

// token gets a bearer token (distribution, docs/spec/auth/token.md and oauth.md).
func (c *Client) token(ctx context.Context, e *endpoint, ch challenge, realm *url.URL, scope string) (string, error) {
	if realm.Scheme != "https" && !(e.base.Scheme == "http" || loopback(realm.Host) || c.config.IsInsecure(realm.Host)) {
		return "", fmt.Errorf("cannot log in to registry %s: its token server %s is plain HTTP, and would let others read the password", e, realm.Host)
	}
	cred, err := c.creds.Get(ctx, e.registry)
	if err != nil {
		return "", err
	}
	if scope == "" {
		scope = ch.params["scope"]
	}
	scopes := strings.Fields(scope)
	form := url.Values{"service": {ch.params["service"]}}
	r := call{method: http.MethodGet, header: http.Header{}}
	if cred.IdentityToken != "" {
		form.Set("grant_type", "refresh_token")
		form.Set("refresh_token", cred.IdentityToken)
		form.Set("client_id", "stack")
		form.Set("scope", strings.Join(scopes, " "))
		r.method = http.MethodPost
		r.header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.body = func() (io.ReadCloser, int64, error) {
			s := form.Encode()
			return io.NopCloser(strings.NewReader(s)), int64(len(s)), nil
		}
	} else {
		q := realm.Query()
		q.Set("service", form.Get("service"))
		q["scope"] = scopes
		if cred.Username != "" {
			q.Set("account", cred.Username)
			r.header.Set("Authorization", basic(cred))
		}
		realm.RawQuery = q.Encode()
	}
	r.path = realm.String()
	resp, err := c.send(ctx, e, r, "")
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		fail := refusal(e, resp, time.Now())
		fail.ofLogin = cred != Credential{}
		return "", fail
	}
	defer resp.Body.Close()
	atOnce(resp)
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil {
		return "", fmt.Errorf("cannot log in to registry %s: its token server's answer cannot be read: %w", e, err)
	}
	if answer.Token == "" {
		answer.Token = answer.AccessToken
	}
	if answer.Token == "" {
		return "", fmt.Errorf("cannot log in to registry %s: its token server gave no token", e)
	}
	return "Bearer " + answer.Token, nil
}

// Login tries credentials on a registry, and keeps them if they are right. It
// returns where.
func (c *Client) Login(ctx context.Context, registry string, cred Credential) (where string, err error) {
	trial := *c.creds
	trial.only = &cred
	probe := &Client{o: c.o, config: c.config, creds: &trial, known: map[string][]*endpoint{}, tokens: map[string]string{}}
	all, err := probe.endpoints(ctx, registry, false)
	if err != nil {
		return "", err
	}
	resp, err := probe.do(ctx, all[0], call{method: http.MethodGet, path: "/v2/", ok: []int{http.StatusOK}})
	var refused *Error
	if errors.As(err, &refused) && refused.Status == http.StatusUnauthorized {
		return "", fmt.Errorf("cannot log in to registry %s: it does not take this user name and password", all[0])
	}
	if err != nil {
		return "", fmt.Errorf("cannot log in to registry %s: %w", all[0], err)
	}
	drain(resp)
	return c.creds.Store(ctx, registry, cred)
}
