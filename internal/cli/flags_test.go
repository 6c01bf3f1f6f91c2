package cli

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// documented is a flag in a document.
type documented struct {
	line string
	def  string // the default, or empty
}

// inWords are defaults that differ between machines and are described in words.
var inWords = map[string]struct{ value, words string }{
	"max-procs": {strconv.Itoa(4 * runtime.NumCPU()), "4 for each processor"},
}

var (
	// .It Fl timeout Ar duration Pq Li 60s
	manualFlag    = regexp.MustCompile(`(?m)^\.It Fl ([a-z-]+)(.*)$`)
	manualDefault = regexp.MustCompile(` Pq Li (.+)$`)
	// .Op Fl timeout Ar duration
	synopsisFlag = regexp.MustCompile(`(?m)^(?:\.Op )?\.?Fl ([a-z-]+)`)
	// | `-timeout D` | `60s` | of one request's command; then 504 |
	readmeFlag    = regexp.MustCompile("(?m)^\\| `-([a-z-]+)(.*)$")
	readmeDefault = regexp.MustCompile("^[^|]*\\| `([^`]+)` \\|")
	readmeCell    = regexp.MustCompile(`^[^|]*\| ([^|]*) ?\|`)
)

func readDoc(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func flagsIn(t *testing.T, text string, line, def *regexp.Regexp) map[string]documented {
	t.Helper()
	all := make(map[string]documented)
	for _, m := range line.FindAllStringSubmatch(text, -1) {
		if _, ok := all[m[1]]; ok {
			t.Errorf("-%s is documented twice", m[1])
		}
		d := documented{line: m[2]}
		if v := def.FindStringSubmatch(m[2]); v != nil {
			d.def = v[1]
		}
		all[m[1]] = d
	}
	return all
}

// TestFlagsAreDocumented checks that the manual and the README have exactly the flags
// of the binary, with their defaults.
func TestFlagsAreDocumented(t *testing.T) {
	set := newFlags().set
	for name, doc := range map[string]map[string]documented{
		"docs/onewake.8": flagsIn(t, readDoc(t, "docs/onewake.8"), manualFlag, manualDefault),
		"README.md":      flagsIn(t, readDoc(t, "README.md"), readmeFlag, readmeDefault),
	} {
		t.Run(name, func(t *testing.T) {
			delete(doc, "h") // of package flag
			set.VisitAll(func(f *flag.Flag) {
				d, ok := doc[f.Name]
				if !ok {
					t.Errorf("-%s is not documented", f.Name)
					return
				}
				delete(doc, f.Name)
				want := f.DefValue
				if want == "false" {
					want = "" // not documented
				}
				if w, ok := inWords[f.Name]; ok {
					if f.DefValue != w.value {
						t.Errorf("-%s: the default is %q, not %s", f.Name, f.DefValue, w.words)
					}
					if !strings.Contains(d.line, w.words) {
						t.Errorf("-%s: %q does not say %q", f.Name, d.line, w.words)
					}
					want = ""
				}
				if d.def != want {
					t.Errorf("-%s: the default is %q, documented as %q", f.Name, want, d.def)
				}
			})
			for name := range doc {
				t.Errorf("-%s is documented but does not exist", name)
			}
		})
	}
}

// TestReadmeDefaults checks that each row of the README has a default.
func TestReadmeDefaults(t *testing.T) {
	for name, d := range flagsIn(t, readDoc(t, "README.md"), readmeFlag, readmeDefault) {
		cell := readmeCell.FindStringSubmatch(d.line)
		if cell == nil {
			t.Errorf("-%s: %q is not a row of three cells", name, d.line)
		} else if strings.TrimSpace(cell[1]) == "" && name != "check" && name != "version" {
			t.Errorf("-%s: no default", name)
		}
	}
}

// TestSynopsis checks that the synopsis of the manual has exactly the flags of the
// binary.
func TestSynopsis(t *testing.T) {
	_, text, _ := strings.Cut(readDoc(t, "docs/onewake.8"), "\n.Sh SYNOPSIS\n")
	text, _, ok := strings.Cut(text, "\n.Sh ")
	if !ok {
		t.Fatal("no synopsis")
	}
	listed := make(map[string]bool)
	for _, m := range synopsisFlag.FindAllStringSubmatch(text, -1) {
		listed[m[1]] = true
	}
	set := newFlags().set
	set.VisitAll(func(f *flag.Flag) {
		if !listed[f.Name] {
			t.Errorf("-%s is missing", f.Name)
		}
		delete(listed, f.Name)
	})
	delete(listed, "h")
	delete(listed, "-")
	for name := range listed {
		t.Errorf("-%s does not exist", name)
	}
}
