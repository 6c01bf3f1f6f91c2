package sock_test

import (
	"os"
	"strings"
	"testing"
)

// docs/libraries.md shows the example that runs here.
func TestLibrariesPage(t *testing.T) {
	page, err := os.ReadFile("../docs/libraries.md")
	if err != nil {
		t.Skip("no docs: ", err)
	}
	source, err := os.ReadFile("example_serve_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(page), "```go\n")
	code, _, _ = strings.Cut(code, "```")
	if !strings.HasPrefix(code, "func serve(") || !strings.Contains(string(source), code) {
		t.Errorf("the code in docs/libraries.md differs from example_serve_test.go:\n%s", code)
	}
}
