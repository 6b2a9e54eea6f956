package load

import (
	"fmt"
	"strings"
	"testing"
)

func fifty() string {
	var b strings.Builder
	b.WriteString("name: x\nservices:\n")
	for i := range 50 {
		fmt.Fprintf(&b, "  s%d:\n    image: a\n    environment:\n      A: b\n    ports: [\"%d:80\"]\n    healthcheck:\n      test: [CMD, x]\n", i, 8000+i)
		if i > 0 {
			fmt.Fprintf(&b, "    depends_on: [s%d]\n", i-1)
		}
	}
	return b.String()
}

func BenchmarkLoad(b *testing.B) {
	for name, yaml := range map[string]string{"1": minimal, "50": fifty()} {
		b.Run(name, func(b *testing.B) {
			o := project(b, map[string]string{"compose.yaml": yaml})
			for b.Loop() {
				if _, err := Load(b.Context(), o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("identify", func(b *testing.B) {
		o := project(b, map[string]string{"compose.yaml": fifty()})
		for b.Loop() {
			if _, err := Identify(b.Context(), o); err != nil {
				b.Fatal(err)
			}
		}
	})
}
