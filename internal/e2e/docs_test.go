//go:build freebsd || linux

package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// These tests check the documents.

var (
	docLink    = regexp.MustCompile(`!?\[[^\]]*\]\(([^)\s]+)\)`)
	docHeading = regexp.MustCompile(`(?m)^#{1,6} +(.*)$`)
	docFence   = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	// goName is a test or a fuzz target that a document names.
	goName = regexp.MustCompile("`(?:(?:Test|Fuzz)[A-Z][A-Za-z0-9]*)`")
	goFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9]*)\(`)
)

// documents returns all Markdown files of the project, by their path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	all := make(map[string]string)
	walkSources(t, func(path string) {
		if strings.HasSuffix(path, ".md") {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			rel, _ := filepath.Rel(sources, path)
			all[rel] = docFence.ReplaceAllString(string(b), "")
		}
	})
	if len(all) < 8 {
		t.Fatalf("only %d documents found", len(all))
	}
	return all
}

func walkSources(t *testing.T, f func(path string)) {
	t.Helper()
	err := filepath.WalkDir(sources, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && (d.Name() == ".git" || path == sources+"/build") {
			return fs.SkipDir
		}
		if err == nil && !d.IsDir() {
			f(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// anchor is the anchor of a heading.
func anchor(heading string) string {
	heading = strings.ToLower(strings.TrimSpace(heading))
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', 'a' <= r && r <= 'z', '0' <= r && r <= '9', r > 0x7f:
			return r
		}
		return -1
	}, heading)
}

// TestLinks checks that every link within the project has a target.
func TestLinks(t *testing.T) {
	t.Parallel()
	docs := documents(t)
	n := 0
	for name, text := range docs {
		for _, m := range docLink.FindAllStringSubmatch(text, -1) {
			target, frag, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			n++
			path := name
			if target != "" {
				path = filepath.Join(filepath.Dir(name), target)
			}
			if _, err := os.Stat(filepath.Join(sources, path)); err != nil || strings.HasPrefix(path, "../") {
				t.Errorf("%s: %s leads nowhere", name, m[0])
				continue
			}
			if frag == "" {
				continue
			}
			if !slices.ContainsFunc(docHeading.FindAllStringSubmatch(docs[path], -1), func(h []string) bool { return anchor(h[1]) == frag }) {
				t.Errorf("%s: %s: no such heading in %s", name, m[0], path)
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d links found", n)
	}
	t.Logf("%d links in %d documents", n, len(docs))
}

// TestIndex checks that the index has a link to each document.
func TestIndex(t *testing.T) {
	t.Parallel()
	index := documents(t)["docs/README.md"]
	entries, err := os.ReadDir(sources + "/docs")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := e.Name()
		if name == "README.md" || slices.Contains([]string{".svg", ".png"}, filepath.Ext(name)) {
			continue
		}
		if !strings.Contains(index, "("+name) {
			t.Errorf("docs/README.md has no link to %s", name)
		}
	}
}

// TestNamedTests checks that every test that a document names exists.
func TestNamedTests(t *testing.T) {
	t.Parallel()
	have := make(map[string]bool)
	walkSources(t, func(path string) {
		if strings.HasSuffix(path, "_test.go") {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range goFunc.FindAllStringSubmatch(string(b), -1) {
				have[m[1]] = true
			}
		}
	})
	n := 0
	for name, text := range documents(t) {
		for _, m := range goName.FindAllString(text, -1) {
			n++
			if !have[strings.Trim(m, "`")] {
				t.Errorf("%s names %s, which is not a test", name, m)
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d tests are named", n)
	}
}
