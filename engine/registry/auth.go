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

// challenge is one WWW-Authenticate (RFC 9110, section 11.6.1).
type challenge struct {
	scheme string // lower case
	params map[string]string
}

// parseChallenge reads `Scheme key="value",key=value`.
func parseChallenge(s string) challenge {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(s), " ")
	c := challenge{scheme: strings.ToLower(scheme), params: map[string]string{}}
	for rest = strings.TrimLeft(rest, " ,"); rest != ""; rest = strings.TrimLeft(rest, " ,") {
		key, after, ok := strings.Cut(rest, "=")
		if !ok {
			break
		}
		var value strings.Builder
		if strings.HasPrefix(after, `"`) {
			i := 1
			for ; i < len(after) && after[i] != '"'; i++ {
				if after[i] == '\\' && i+1 < len(after) {
					i++
				}
				value.WriteByte(after[i])
			}
			rest = after[min(i+1, len(after)):]
		} else {
			i := strings.IndexAny(after, ", ")
			if i < 0 {
				i = len(after)
			}
			value.WriteString(after[:i])
			rest = after[i:]
		}
		c.params[strings.ToLower(strings.TrimSpace(key))] = value.String()
	}
	return c
}

// authorize answers a challenge with an Authorization header, "" if there are no
// credentials to answer it with.
func (c *Client) authorize(ctx context.Context, e *endpoint, challenges []string, scope string) (string, error) {
	for _, text := range challenges {
		ch := parseChallenge(text)
		switch ch.scheme {
		case "bearer":
			return c.token(ctx, e, ch, scope)
		case "basic":
			cred, err := c.creds.Get(ctx, e.registry)
			if err != nil || cred.Username == "" {
				return "", err
			}
			return basic(cred), nil
		}
	}
	return "", nil
}

func basic(cred Credential) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(cred.Username+":"+cred.Password))
}

// token gets a bearer token (distribution, docs/spec/auth/token.md and oauth.md).
func (c *Client) token(ctx context.Context, e *endpoint, ch challenge, scope string) (string, error) {
	realm, err := url.Parse(ch.params["realm"])
	if err != nil || realm.Host == "" {
		return "", fmt.Errorf("cannot log in to registry %s: it names no token server", e)
	}
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
		return "", refusal(e, resp, time.Now())
	}
	defer resp.Body.Close()
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
