package sealed

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
)

// Copy seals what an object's content is now, for somebody who keeps it: the store may
// have another content under that name later.
func (s *Store) Copy(k Kind, name string, content []byte) (json.RawMessage, error) {
	key, err := s.key()
	if errors.Is(err, fs.ErrNotExist) {
		err = &KeyError{s.keyPath(), errMissing}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot keep %s %q: %w", k, name, err)
	}
	r, err := key.seal(Object{Kind: k, Name: name}, content)
	if err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// OpenCopy returns the content of a copy of that object. The error is a *KeyError, or says
// that it is none.
func (s *Store) OpenCopy(k Kind, name string, data json.RawMessage) ([]byte, error) {
	var r record
	if err := json.Unmarshal(data, &r); err != nil || r.Version != schemaVersion || r.Kind != k || r.Name != name {
		return nil, fmt.Errorf("cannot read a copy of %s %q: %w", k, name, errors.Join(errAltered, err))
	}
	key, err := s.keyOf(&r)
	if err != nil {
		return nil, err
	}
	content, err := key.open(&r)
	if err != nil {
		return nil, fmt.Errorf("cannot read a copy of %s %q: %w", k, name, errAltered)
	}
	return content, nil
}
