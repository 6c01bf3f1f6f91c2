package cli

import (
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDistance checks the suggestions for misspelt flags.
func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "bc", 1}, {"bc", "abc", 1}, {"kitten", "sitting", 3}, {"ab", "ba", 2}} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("%q, %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
	f := newFlags()
	for name, want := range map[string]string{"timout": "timeout", "listenn": "listen", "max_procs": "max-procs", "alow": "allow", "user": "", "x": "", "processes": ""} {
		got := f.similar(name)
		if want != "" {
			want = ", did you mean -" + want + "?"
		}
		if got != want {
			t.Errorf("-%s: %q, want %q", name, got, want)
		}
	}
}

var (
	// m.log.Warn("core is being traced already", …)
	logCall = regexp.MustCompile(`(?:[lL]og(?:\([a-z]*\))?|own)\.(Info|Warn|Error)\("([^"]+)"`)
	// r.log(slog.LevelError, "cannot keep an answer", …), slog.NewRecord(now, slog.LevelInfo, "request", 0)
	logLevel = regexp.MustCompile(`slog\.Level(Info|Warn|Error), "([^"]+)"`)
	// errors that package cgi logs, and notes of package perms
	logError = regexp.MustCompile(`err(?:NoHeader|LongHead|Malformed) += errors\.New\("([^"]+)"\)`)
	logNote  = regexp.MustCompile(`notes = append\(notes, "([^"]+)"\)`)
	item     = regexp.MustCompile(`(?m)^\.It Li (.+)$`)
)

// TestManualListsRecords checks that the manual lists exactly the log messages of the
// source, each with its level.
func TestManualListsRecords(t *testing.T) {
	logged := make(map[string]string) // level by message
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (filepath.Base(path) == "rc.d" || filepath.Base(path) == "tools" || filepath.Base(path) == ".git") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text := readDoc(t, strings.TrimPrefix(path, "../../"))
		for _, m := range append(logCall.FindAllStringSubmatch(text, -1), logLevel.FindAllStringSubmatch(text, -1)...) {
			logged[m[2]] = strings.ToUpper(m[1])
		}
		for _, m := range logError.FindAllStringSubmatch(text, -1) {
			logged[m[1]] = "ERROR"
		}
		for _, m := range logNote.FindAllStringSubmatch(text, -1) {
			logged[m[1]] = "WARN"
		}
		return nil
	})
	if err != nil || len(logged) < 40 {
		t.Fatalf("%d messages, %v", len(logged), err)
	}
	logged["failed to delete socket"] = "WARN" // its text contains a path
	logged["command failed"] = "WARN"          // or ERROR

	_, text, _ := strings.Cut(readDoc(t, "docs/onewake.8"), "\n.Sh DIAGNOSTICS\n")
	text, _, _ = strings.Cut(text, "\n.Sh ")
	for _, part := range strings.Split(text, " level ")[1:] {
		level, part, ok := strings.Cut(part, ":\n")
		if !ok || strings.Contains(level, " ") {
			t.Fatalf("unknown level %q", level)
		}
		// Nested lists are lists of values, not of messages.
		for inner := strings.LastIndex(part, "\n.Bl "); strings.Count(part, "\n.Bl ") > 0; inner = strings.LastIndex(part, "\n.Bl ") {
			end := strings.Index(part[inner:], "\n.El\n")
			if end < 0 {
				t.Fatalf("level %s: a list without .El", level)
			}
			part = part[:inner] + part[inner+end:]
		}
		for _, m := range item.FindAllStringSubmatch(part, -1) {
			for message := range strings.SplitSeq(strings.TrimSuffix(m[1], " Ar path"), " , ") {
				if logged[message] != level {
					t.Errorf("%q has level %s in the manual, but %q in the source", message, level, logged[message])
				}
				delete(logged, message)
			}
		}
	}
	for _, m := range slices.Sorted(maps.Keys(logged)) {
		t.Errorf("%q with level %s is not in the manual", m, logged[m])
	}
}
