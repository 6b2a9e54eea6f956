package inode

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// byPath are the calls that change what a path leads to at that moment.
var byPath = map[string]bool{
	"os.Chmod": true, "os.Chown": true, "os.Lchown": true, "os.Chtimes": true,
	"unix.Chmod": true, "unix.Chown": true, "unix.Lchown": true, "unix.Fchmodat": true, "unix.Fchownat": true,
	"unix.Setxattr": true, "unix.Lsetxattr": true, "unix.Removexattr": true, "unix.Lremovexattr": true,
	"unix.Utimes": true, "unix.UtimesNano": true, "unix.UtimesNanoAt": true, "unix.Utimensat": true,
}

// ours says why no container, and nobody without our rights, can put something else
// where a function's path leads: FILE FUNCTION.
var ours = map[string]string{
	"engine/snapshot/store.go Open":           "the layer of nothing, below the data root",
	"engine/snapshot/store.go makePoints":     "the layer of mount points, below the data root",
	"engine/snapshot/fix.go apply":            "the top of a layer that is being made; what is in it is not touched",
	"engine/snapshot/unpack.go unpackTo":      "the top of a layer that is being made",
	"engine/build/runner/bundle.go write":     "a file of the build's own directory, which is mounted read-only",
	"volumes/store.go create":                 "a volume that is being made, and has no name yet",
	"volumes/copytree/copytree.go copyXattrs": "both are the paths of descriptors",
	"internal/sock/sock.go Listen":            "a run directory of ours",
	"internal/inode/inode.go Chmod":           "the path of a descriptor",
}

// A path that a container can write may lead elsewhere from one call to the next. So
// whoever changes modes, owners, times or attributes by path says here why it is not one.
func TestNobodyChangesWhatAPathLeadsTo(t *testing.T) {
	root := filepath.Join("..", "..")
	used := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() && (rel == "e2e" || rel == "examples" || rel == "bin" || strings.HasPrefix(rel, ".") && rel != "." || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, at := range changesByPath(t, rel, text) {
			used[at.function] = true
			if ours[at.function] == "" {
				t.Errorf("%s: %s changes what a path leads to; open it and change it through the descriptor, or say in this test why nobody can put something else there", at.place, at.call)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for f := range ours {
		if !used[f] {
			t.Errorf("%s does no such thing any more", f)
		}
	}
}

type change struct{ function, place, call string }

func changesByPath(t *testing.T, rel string, text []byte) (found []change) {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, rel, text, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := sel.X.(*ast.Ident)
			if !ok || !byPath[pkg.Name+"."+sel.Sel.Name] || onDescriptor(call) {
				return true
			}
			found = append(found, change{rel + " " + f.Name.Name, set.Position(call.Pos()).String(), fmt.Sprintf("%s.%s", pkg.Name, sel.Sel.Name)})
			return true
		})
	}
	return found
}

// onDescriptor tells a call that takes a descriptor and an empty path, or the path of
// a descriptor.
func onDescriptor(call *ast.CallExpr) bool {
	if len(call.Args) < 2 {
		return false
	}
	if of, ok := call.Args[0].(*ast.CallExpr); ok {
		f, ok := of.Fun.(*ast.SelectorExpr)
		return ok && f.Sel.Name == "Path" && fmt.Sprint(f.X) == "inode"
	}
	path, ok := call.Args[1].(*ast.BasicLit)
	return ok && path.Value == `""`
}
