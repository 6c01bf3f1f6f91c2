package cli

import (
	"flag"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
)

const defaultListen = "unix:/var/run/onewake/onewake.sock"

// row is one line of the table of flags. The usage is the flag and its value, as in
// -h. A flag without a value is boolean. A flag whose text ends in "repeatable" can
// be given more than once. A row without text is a heading.
type row struct{ usage, def, text string }

func (r *row) name() string { return r.usage[:strings.IndexAny(r.usage+" ", " =")] }

var table = []row{
	{"Listening", "", ""},
	{"listen ADDR", defaultListen, "unix:/path, tcp4:host:port, tcp6:[host%zone]:port or fd:N;\nrepeatable"},
	{"protocol P", "http", "http or fastcgi, on all listeners"},
	{"socket-mode OCTAL", "0660", "mode of the socket file"},
	{"socket-owner USER", "", "owner of the socket file; only root can set another user"},
	{"socket-group GROUP", "", "group of the socket file; default: set by the directory"},
	{"allow LIST", "", "only these users and :groups may connect"},
	{"Command", "", ""},
	{"cgi", "false", "the command speaks CGI/1.1; else its output is the body"},
	{"scripts DIR", "", "serve the CGI programs below DIR instead of a command"},
	{"content-type TYPE", "text/plain; charset=utf-8", "type of non-CGI output"},
	{"stream", "false", "send non-CGI output as it comes, not when it is complete"},
	{"form", "false", "set variables FORM_NAME to the values of form fields"},
	{"env NAME[=VALUE]", "", "set a variable, or copy it from onewake; repeatable"},
	{"dir DIR", "", "working directory; default: /, with -cgi the program's"},
	{"timeout TIME", "60s", "time limit of a command"},
	{"kill-after TIME", "5s", "time between SIGTERM and SIGKILL"},
	{"Requests", "", ""},
	{"param NAME", "", "FastCGI: pass this parameter on too; repeatable"},
	{"script-name PREFIX", "", "path prefix for SCRIPT_NAME; the rest is PATH_INFO"},
	{"forwarded LIST", "", "trusted headers, which the web server in front sets"},
	{"max-body SIZE", "16MiB", "largest body, in bytes, KiB, MiB or GiB"},
	{"Limits", "", ""},
	{"max-procs N", strconv.Itoa(4 * runtime.NumCPU()), "commands running at once, 4 for each processor"},
	{"max-queue N", "512", "requests waiting for a command to exit"},
	{"max-conns N", "1024", "open connections"},
	{"spool-dir DIR", "/var/tmp", "directory for large bodies"},
	{"Service", "", ""},
	{"drain TIME", "10s", "at a stop, time for running requests to complete"},
	{"sandbox MODE", "on", "on or off: run the core in capability mode (FreeBSD)"},
	{"log-format FORMAT", "text", "text or json, on standard error"},
	{"access-log=BOOL", "true", "log each request"},
	{"check", "false", "check everything that a start needs, change nothing"},
	{"version", "false", "print version, Go version and system"},
}

// value is the value of a flag as text. It is parsed after all flags have been
// read, so that all errors are reported together.
type value struct {
	texts                    []string
	set, repeatable, boolean bool
}

func (v *value) String() string { return strings.Join(v.texts, ",") }

// IsBoolFlag makes package flag accept the flag without a value.
func (v *value) IsBoolFlag() bool { return v.boolean }

func (v *value) Set(s string) error {
	if v.boolean {
		on, err := strconv.ParseBool(s)
		if err != nil {
			return err
		}
		s = strconv.FormatBool(on)
	}
	if !v.repeatable || !v.set {
		v.texts = nil
	}
	v.texts, v.set = append(v.texts, s), true
	return nil
}

// flags are the flags of a command line.
type flags struct {
	set *flag.FlagSet
	all map[string]*value
}

func newFlags() *flags {
	f := &flags{flag.NewFlagSet("onewake", flag.ContinueOnError), make(map[string]*value)}
	for _, r := range table {
		if r.text == "" {
			continue
		}
		v := &value{repeatable: strings.HasSuffix(r.text, "repeatable"), boolean: !strings.Contains(r.usage, " ")}
		if !v.repeatable || r.def != "" {
			v.texts = []string{r.def}
		}
		f.all[r.name()] = v
		f.set.Var(v, r.name(), r.usage)
	}
	return f
}

func (f *flags) text(name string) string { return f.all[name].texts[0] }

func (f *flags) on(name string) bool { return f.text(name) == "true" }

// usage prints the text of -h, which fits on one screen.
func usage(w io.Writer) {
	fmt.Fprint(w, "usage: onewake [flags] [--] [command [argument ...]]\n")
	for _, r := range table {
		text := strings.ReplaceAll(r.text, "\n", "\n"+strings.Repeat(" ", 22))
		if r.def != "" && r.def != "false" {
			text += " (" + r.def + ")"
		}
		if text == "" {
			fmt.Fprintf(w, "\n%s:\n", r.usage)
		} else {
			fmt.Fprintf(w, "  -%-18s %s\n", r.usage, text)
		}
	}
	fmt.Fprint(w, "\nDefaults are in parentheses. Details: man onewake\n")
}

// badArgument describes an argument that package flag does not accept.
func (f *flags) badArgument(arg string) string {
	name, text, hasValue := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
	fl := f.set.Lookup(name)
	switch {
	case name == "" || name[0] == '-':
		return fmt.Sprintf("%q: not a flag", arg)
	case fl == nil:
		return fmt.Sprintf("-%s: no such flag%s", name, f.similar(name))
	case hasValue:
		return fmt.Sprintf("-%s %q: not a boolean, use -%[1]s=true or -%[1]s=false", name, text)
	}
	return fmt.Sprintf("-%s: no value, use -%s", name, fl.Usage)
}

// similar suggests a flag for a misspelt name, if there is a similar one.
func (f *flags) similar(name string) string {
	best, least := "", 1+len(name)/3
	f.set.VisitAll(func(fl *flag.Flag) {
		if d := distance(name, fl.Name); d <= least {
			best, least = fl.Name, d-1
		}
	})
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean -%s?", best)
}

// distance returns the Levenshtein distance of a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0]++
		for j := range len(b) {
			d := corner
			if a[i] != b[j] {
				d = 1 + min(corner, row[j], row[j+1])
			}
			corner, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}
