// Package recipes_test does what the recipes say: it takes settings, files and
// commands out of their Markdown, runs the real programs with them in front of
// the real onewake, and looks at what comes of it.
//
// What it takes are the fenced blocks:
//
//	```LANGUAGE file=PATH	a file to be made, which the lines before name
//	```sh			commands to be typed, in this order
//	```console		commands ("$ " or "# ") and what they print, once
//				all of the above is done; a line of … stands for
//				any lines, and one within a line for anything
//
// Anything else is in blocks of other kinds, or in the text.
package recipes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A page is one recipe.
type page struct {
	name   string
	blocks []block
}

type block struct {
	line int
	head string // the heading that it is below
	lang string
	file string // with the path that the page has
	text string
}

// parse reads a page.
func parse(name, text string) (page, error) {
	p := page{name: name}
	var b *block
	var fence string     // the marks that end the block
	last, head := "", "" // text, and the heading before it
	for i, line := range strings.Split(text, "\n") {
		switch {
		case b != nil && line == fence:
			p.blocks = append(p.blocks, *b)
			b = nil
		case b != nil:
			b.text += line + "\n"
		case strings.HasPrefix(line, "```"):
			marks := len(line) - len(strings.TrimLeft(line, "`"))
			fence = line[:marks]
			lang, file, _ := strings.Cut(line[marks:], " ")
			b = &block{line: i + 1, head: head, lang: lang}
			if file != "" {
				path, ok := strings.CutPrefix(file, "file=")
				if !ok || !strings.HasPrefix(path, "/") {
					return p, fmt.Errorf("%s:%d: %q is not file=/path", name, i+1, file)
				}
				if !strings.Contains(last, "`"+path+"`") {
					return p, fmt.Errorf("%s:%d: a reader is not told of %s", name, i+1, path)
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
		return p, fmt.Errorf("%s:%d: the block does not end", name, b.line)
	}
	return p, nil
}

var link = regexp.MustCompile(`\]\(([^)]+)\)`)

// Every page can be read, is in the index, and links to what is there.
func TestPages(t *testing.T) {
	names, err := filepath.Glob("*.md")
	if err != nil || len(names) < 2 {
		t.Fatal(names, err)
	}
	index, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parse(name, string(text)); err != nil {
			t.Error(err)
		}
		if name != "README.md" && strings.Count(string(index), "]("+name+") |") != 1 {
			t.Errorf("README.md does not have %s in one line of its table", name)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			path, _, _ := strings.Cut(m[1], "#")
			if path == "" || strings.Contains(path, "://") {
				continue
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
