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

// row is a flag: as it is typed, its default and what -h says of it. A flag
// without a value is off or on, one that is said to be repeatable is. A row
// without a text is a headline.
type row struct{ typed, def, text string }

func (r *row) name() string { return r.typed[:strings.IndexAny(r.typed+" ", " =")] }

var table = []row{
	{"Listening", "", ""},
	{"listen ADDR", defaultListen, "unix:/path, tcp4:host:port, tcp6:[host%zone]:port or fd:N;\nrepeatable"},
	{"protocol P", "http", "http or fastcgi, on all of them"},
	{"socket-mode OCTAL", "0660", "mode of the socket file"},
	{"socket-owner USER", "", "owner of the socket file; only root may give it away"},
	{"socket-group GROUP", "", "group of the socket file, else as the directory makes it"},
	{"allow LIST", "", "users and :groups that may connect, else whoever can"},
	{"Command", "", ""},
	{"cgi", "false", "it speaks CGI/1.1; without this, its output is the body"},
	{"scripts DIR", "", "CGI programs below it, in place of a command"},
	{"content-type TYPE", "text/plain; charset=utf-8", "of that body"},
	{"stream", "false", "that body goes out as it comes"},
	{"form", "false", "values of forms are variables FORM_NAME"},
	{"env NAME[=VALUE]", "", "one more variable, without = copied; repeatable"},
	{"dir DIR", "", "where it runs, else / or, with -cgi, its own"},
	{"timeout TIME", "60s", "how long it may run for one request"},
	{"kill-after TIME", "5s", "from SIGTERM to SIGKILL"},
	{"Requests", "", ""},
	{"param NAME", "", "FastCGI: one more parameter to pass on; repeatable"},
	{"script-name PREFIX", "", "of paths, SCRIPT_NAME; the rest is PATH_INFO"},
	{"forwarded LIST", "", "headers that the web server in front sets itself"},
	{"max-body SIZE", "16MiB", "largest body, in bytes, KiB, MiB or GiB"},
	{"Limits", "", ""},
	{"max-procs N", strconv.Itoa(4 * runtime.NumCPU()), "commands running at once, 4 for each CPU"},
	{"max-queue N", "512", "requests that wait for one to end"},
	{"max-conns N", "1024", "open connections"},
	{"spool-dir DIR", "/var/tmp", "files for large bodies"},
	{"Service", "", ""},
	{"drain TIME", "10s", "how long running requests may take at a stop"},
	{"sandbox MODE", "on", "on, where FreeBSD refuses to run unconfined, or off"},
	{"log-format FORMAT", "text", "text or json, on standard error"},
	{"access-log=BOOL", "true", "one log record a request"},
	{"check", "false", "check all that a start would, change nothing, and exit"},
	{"version", "false", "print version, Go version and system, and exit"},
}

// value is a flag whose text is looked at when all flags are known, so that
// everything that is wrong is told at once.
type value struct {
	texts            []string
	set, many, onOff bool
}

func (v *value) String() string { return strings.Join(v.texts, ",") }

// IsBoolFlag tells package flag that no value follows.
func (v *value) IsBoolFlag() bool { return v.onOff }

func (v *value) Set(s string) error {
	if v.onOff {
		on, err := strconv.ParseBool(s)
		if err != nil {
			return err
		}
		s = strconv.FormatBool(on)
	}
	if !v.many || !v.set {
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
		v := &value{many: strings.HasSuffix(r.text, "repeatable"), onOff: !strings.Contains(r.typed, " ")}
		if !v.many || r.def != "" {
			v.texts = []string{r.def}
		}
		f.all[r.name()] = v
		f.set.Var(v, r.name(), r.typed)
	}
	return f
}

func (f *flags) text(name string) string { return f.all[name].texts[0] }

func (f *flags) on(name string) bool { return f.text(name) == "true" }

// usage is what -h prints, one screen.
func usage(w io.Writer) {
	fmt.Fprint(w, "usage: onewake [flags] [--] [command [argument ...]]\n")
	for _, r := range table {
		text := strings.ReplaceAll(r.text, "\n", "\n"+strings.Repeat(" ", 22))
		if r.def != "" && r.def != "false" {
			text += " (" + r.def + ")"
		}
		if text == "" {
			fmt.Fprintf(w, "\n%s:\n", r.typed)
		} else {
			fmt.Fprintf(w, "  -%-18s %s\n", r.typed, text)
		}
	}
	fmt.Fprint(w, "\nDefaults are in parentheses; more is in onewake(8): man onewake\n")
}

// misuse says what is wrong with an argument that package flag does not take.
func (f *flags) misuse(arg string) error {
	name, text, given := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
	fl := f.set.Lookup(name)
	switch {
	case name == "" || name[0] == '-':
		return fmt.Errorf("%q: not a flag", arg)
	case fl == nil:
		return fmt.Errorf("-%s: no such flag%s", name, f.nearest(name))
	case given:
		return fmt.Errorf("-%s %q: neither true nor false, use -%[1]s=true or -%[1]s=false", name, text)
	}
	return fmt.Errorf("-%s: its value is missing, use -%s", name, fl.Usage)
}

// nearest suggests the flag that a name is a slip of, if there is one.
func (f *flags) nearest(name string) string {
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

// distance is the number of characters to put in, take out or change that make
// a into b.
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
