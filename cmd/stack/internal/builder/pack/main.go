// Command pack compresses the builder program into the directory that package
// builder embeds.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/stack-run/stack/cmd/stack/internal/builder"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: pack PROGRAM DIRECTORY")
		os.Exit(2)
	}
	if err := pack(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func pack(program, dir string) error {
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	path := filepath.Join(dir, builder.Prefix+hex.EncodeToString(sum[:])+builder.Suffix)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	old, err := filepath.Glob(filepath.Join(dir, builder.Prefix+"*"))
	if err != nil {
		return err
	}
	for _, o := range old {
		if err := os.Remove(o); err != nil {
			return err
		}
	}
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed, zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return err
	}
	if _, err := z.Write(data); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	temp := path + ".new"
	if err := os.WriteFile(temp, packed.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
