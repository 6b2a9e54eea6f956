package main

import (
	"strings"

	"github.com/sirupsen/logrus"
)

// plainLog writes what BuildKit and containerd log in a command as the command's
// own warnings.
type plainLog struct{}

// Format implements logrus.Formatter.
func (plainLog) Format(e *logrus.Entry) ([]byte, error) {
	// containerd tries fs-verity on each directory that a cache is written to. Few
	// file systems have it, and nothing needs it.
	if strings.Contains(e.Message, "fsverity") {
		return nil, nil
	}
	return []byte("Warning: " + e.Message + "\n"), nil
}
