package sock_test

import (
	"os"
	"strings"
	"testing"
)

// The page for other programs shows the example that runs here.
func TestLibrariesPage(t *testing.T) {
	page, err := os.ReadFile("../docs/libraries.md")
	if err != nil {
		t.Skip("not beside its source: ", err)
	}
	source, err := os.ReadFile("example_serve_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(page), "```go\n")
	code, _, _ = strings.Cut(code, "```")
	if !strings.HasPrefix(code, "func serve(") || !strings.Contains(string(source), code) {
		t.Errorf("docs/libraries.md has code that is not that of example_serve_test.go:\n%s", code)
	}
}
