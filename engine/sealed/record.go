package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

// schemaVersion is the version of records. A field more needs a new one: who does
// not know it could not authenticate the record.
const schemaVersion = 1

// record is the content of an object's file.
type record struct {
	Version int `json:"version"`
	Object
	KeyID string `json:"keyID"` // of the key that sealed it
	// Sealed is a nonce and the content with AES-256-GCM. All other fields are the
	// associated data: a file that takes another's place, or is edited, does not open.
	Sealed []byte `json:"sealed,omitempty"`
}

// key is what objects are sealed with.
type key struct {
	id      string
	encrypt []byte
	digest  []byte
}

const keySize = 32

// newKey makes the key of a master key, which is used for nothing but deriving
// (RFC 5869).
func newKey(master []byte) (*key, error) {
	derive := func(purpose string, size int) ([]byte, error) {
		return hkdf.Key(sha256.New, master, nil, "stack sealed 1 "+purpose, size)
	}
	encrypt, err := derive("encrypt", keySize)
	if err != nil {
		return nil, err
	}
	digest, err := derive("digest", keySize)
	if err != nil {
		return nil, err
	}
	id, err := derive("id", 8)
	if err != nil {
		return nil, err
	}
	return &key{hex.EncodeToString(id), encrypt, digest}, nil
}

// encodeKey and decodeKey are the text of the key's file: hexadecimal digits, which
// somebody can write down.
func encodeKey(master []byte) []byte { return []byte(hex.EncodeToString(master) + "\n") }

func decodeKey(text []byte) (*key, error) {
	digits := strings.TrimSpace(string(text))
	if len(digits) != 2*keySize {
		return nil, fmt.Errorf("it has %d characters and not the %d digits of a key", len(digits), 2*keySize)
	}
	master, err := hex.DecodeString(digits)
	if err != nil {
		return nil, fmt.Errorf("it is not in hexadecimal digits")
	}
	return newKey(master)
}

// digestOf is the same for the same content, for whoever has the key.
func (k *key) digestOf(content []byte) string {
	mac := hmac.New(sha256.New, k.digest)
	mac.Write(content)
	return "hmac-sha256:" + hex.EncodeToString(mac.Sum(nil))
}

// seal makes the record of an object with a content.
func (k *key) seal(o Object, content []byte) (*record, error) {
	o.Digest = k.digestOf(content)
	r := &record{Version: schemaVersion, Object: o, KeyID: k.id}
	aead, data, err := k.cipher(r)
	if err != nil {
		return nil, err
	}
	r.Sealed = aead.Seal(nil, nil, content, data)
	return r, nil
}

// open returns the content of a record that k has sealed.
func (k *key) open(r *record) ([]byte, error) {
	aead, data, err := k.cipher(r)
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, nil, r.Sealed, data)
}

// cipher is what seals and opens a record, and the associated data.
func (k *key) cipher(r *record) (cipher.AEAD, []byte, error) {
	header := *r
	header.Sealed = nil
	data, err := json.Marshal(header)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(k.encrypt)
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return aead, data, err
}
