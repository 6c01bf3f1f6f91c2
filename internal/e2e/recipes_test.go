//go:build freebsd || linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// These tests read the pages of docs/recipes. The tests with the build tag
// interop follow the pages with the real programs and check the result. They
// use the fenced blocks of a page:
//
//	```LANGUAGE file=PATH	a file, which the text before names
//	```sh			commands, in this order
//	```console		commands ("$ ") and their output, when all of
//				the above has been done; a line of … stands
//				for any lines, and … in a line for any text
//
// Other blocks and the text are not used.

var recipes = sources + "/docs/recipes"

// recipe is a page.
type recipe struct {
	name   string
	blocks []recipeBlock
}

type recipeBlock struct {
	line int
	head string // the heading that it is below
	lang string
	file string // with the path that the page has
	text string
}

// readRecipe reads a page.
func readRecipe(t *testing.T, name string) recipe {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(recipes, name))
	if err != nil {
		t.Fatal(err)
	}
	r, err := parseRecipe(name, string(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func parseRecipe(name, text string) (recipe, error) {
	r := recipe{name: name}
	var b *recipeBlock
	var fence string     // the fence that ends the block
	last, head := "", "" // text, and the heading before it
	for i, line := range strings.Split(text, "\n") {
		switch {
		case b != nil && line == fence:
			r.blocks = append(r.blocks, *b)
			b = nil
		case b != nil:
			b.text += line + "\n"
		case strings.HasPrefix(line, "```"):
			marks := len(line) - len(strings.TrimLeft(line, "`"))
			fence = line[:marks]
			lang, file, _ := strings.Cut(line[marks:], " ")
			b = &recipeBlock{line: i + 1, head: head, lang: lang}
			if file != "" {
				path, ok := strings.CutPrefix(file, "file=")
				if !ok || !strings.HasPrefix(path, "/") {
					return r, fmt.Errorf("%s:%d: %q is not file=/path", name, i+1, file)
				}
				if !strings.Contains(last, "`"+path+"`") {
					return r, fmt.Errorf("%s:%d: no step for %s", name, i+1, path)
				}
				b.file = path
			}
		case line != "":
			last += line + "\n"
			if strings.HasPrefix(line, "#") {
				last, head = "", strings.TrimLeft(line, "# ")
			}
		}
	}
	if b != nil {
		return r, fmt.Errorf("%s:%d: the block does not end", name, b.line)
	}
	return r, nil
}

// then reports whether a command after the nth block contains a text.
func (r recipe) then(n int, command string) bool {
	return slices.ContainsFunc(r.blocks[n:], func(b recipeBlock) bool { return b.lang == "sh" && strings.Contains(b.text, command) })
}

var serviceSetting = regexp.MustCompile(`\b(onewake(?:_[a-z0-9]+)?)_enable=`)

// TestRecipePages checks that each page can be parsed and is in the index. It
// also checks steps that the other tests do not need: let nginx read its
// configuration, start the service, make a program executable.
func TestRecipePages(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(recipes + "/*.md")
	if err != nil || len(paths) < 10 {
		t.Fatal(paths, err)
	}
	index := shipped(t, "docs/recipes/README.md")
	for _, path := range paths {
		name := filepath.Base(path)
		r := readRecipe(t, name)
		for i, b := range r.blocks {
			if strings.HasPrefix(b.file, "/usr/local/etc/nginx/") && !r.then(i, "service nginx re") {
				t.Errorf("%s: no step to let nginx read %s", name, b.file)
			}
			if (strings.HasSuffix(b.file, ".cgi") || strings.HasPrefix(b.file, "/usr/local/libexec/")) && !r.then(i, "chmod 0555 "+b.file+"\n") {
				t.Errorf("%s: %s cannot be executed", name, b.file)
			}
			for _, m := range serviceSetting.FindAllStringSubmatch(b.text, -1) {
				if b.lang == "sh" && !r.then(i, "service "+m[1]+" start\n") && !r.then(i, "service "+m[1]+" restart\n") {
					t.Errorf("%s: %s is not started", name, m[1])
				}
			}
		}
		if name != "README.md" && strings.Count(index, "]("+name+") |") != 1 {
			t.Errorf("README.md does not have %s in one line of its table", name)
		}
	}
}

// shipped reads a file that is installed, by its path in the sources.
func shipped(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(sources, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestNginxDocuments checks that no document passes Host on without its port.
// Other tests try docs/nginx.conf, which has the right Host.
func TestNginxDocuments(t *testing.T) {
	t.Parallel()
	walkSources(t, func(path string) {
		if strings.HasSuffix(path, ".md") && strings.Contains(shipped(t, strings.TrimPrefix(path, sources)), "Host $host;") {
			t.Errorf("%s has a Host without its port", path)
		}
	})
}
