package sealed

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"

	"github.com/stack-run/stack/internal/durable"
)

// digestsName is the file of the key that KeyDigest uses. It is not the store's own key:
// who loses it has containers made anew once, and nothing else.
const digestsName = "digests"

// KeyDigest turns a content's digest into one that says nothing to who has not the key,
// also not whether a content that was guessed is right. It is made from the digest, so that
// those that were written down can be turned as well.
func (s *Store) KeyDigest(ctx context.Context, digest string) (string, error) {
	key, err := s.digestsKey(ctx)
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, key.digest)
	mac.Write([]byte(digest))
	return "hmac-sha256:" + hex.EncodeToString(mac.Sum(nil)), nil
}

// digestsKey reads the key, and makes one where there is none that can be used.
func (s *Store) digestsKey(ctx context.Context) (*key, error) {
	path := filepath.Join(s.dir, digestsName)
	read := func() (k *key, err error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if k, err = decodeKey(text); err != nil {
			err = errors.Join(os.ErrNotExist, err)
		}
		return k, err
	}
	k, err := read()
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return k, err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	held, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer held.Unlock()
	if k, err = read(); err == nil || !errors.Is(err, os.ErrNotExist) {
		return k, err
	}
	master := make([]byte, keySize)
	rand.Read(master) // never fails
	if err := durable.Write(path, encodeKey(master), 0o600); err != nil {
		return nil, err
	}
	return newKey(master)
}
