package request

import "strings"

// IsRemote tells whether a context is fetched by the builder: a git repository or
// an archive at a URL.
func IsRemote(context string) bool {
	for _, prefix := range []string{"http://", "https://", "git://", "ssh://", "git@", "github.com/"} {
		if strings.HasPrefix(context, prefix) {
			return true
		}
	}
	// The form of scp: USER@HOST:PATH.
	user, rest, ok := strings.Cut(context, "@")
	host, _, colon := strings.Cut(rest, ":")
	return ok && colon && user != "" && host != "" && !strings.ContainsAny(user+host, "/ ")
}

// HasScheme tells whether an additional context is no directory.
func HasScheme(context string) bool {
	for _, prefix := range []string{"docker-image://", "oci-layout://", TargetPrefix} {
		if strings.HasPrefix(context, prefix) {
			return true
		}
	}
	return IsRemote(context)
}
