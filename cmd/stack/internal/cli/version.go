package cli

import (
	"github.com/stack-run/stack/cmd/stack/internal/early"
)

// Version is this program's, with a leading "v".
var Version = early.Version
