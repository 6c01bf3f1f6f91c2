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

// value is a flag whose text is looked at when all flags are known, so that
// everything that is wrong is told at once.
type value struct {
	texts []string
	set   bool
	many  bool
}

func (v *value) String() string { return strings.Join(v.texts, ",") }

func (v *value) Set(s string) error {
	if !v.many || !v.set {
		v.texts = nil
	}
	v.texts, v.set = append(v.texts, s), true
	return nil
}

// flags declares all flags, in the groups and with the texts that -h prints.
type flags struct {
	set    *flag.FlagSet
	all    map[string]*value
	groups []group

	cgi, stream, form, accessLog, check, version bool
}

type group struct {
	name  string
	flags []string
}

func newFlags() *flags {
	f := &flags{set: flag.NewFlagSet("onewake", flag.ContinueOnError), all: make(map[string]*value)}
	in := func(name string) { f.groups = append(f.groups, group{name: name}) }
	told := func(name string) {
		g := &f.groups[len(f.groups)-1]
		g.flags = append(g.flags, name)
	}
	one := func(name, def, usage string) {
		v := &value{texts: []string{def}}
		f.all[name] = v
		f.set.Var(v, name, usage)
		told(name)
	}
	many := func(name, def, usage string) {
		one(name, def, usage)
		v := f.all[name]
		if v.many = true; def == "" {
			v.texts = nil
		}
	}
	onOff := func(p *bool, name string, def bool, usage string) {
		f.set.BoolVar(p, name, def, usage)
		told(name)
	}
	in("Listening")
	many("listen", defaultListen, "`ADDR`: unix:/path, tcp4:host:port, tcp6:[host%zone]:port or fd:N;\nrepeatable")
	one("protocol", "http", "`P`: http or fastcgi, on all of them")
	one("socket-mode", "0660", "`OCTAL`: mode of the socket file")
	one("socket-owner", "", "`USER`: owner of the socket file; only root may give it away")
	one("socket-group", "", "`GROUP`: group of the socket file, else as the directory makes it")
	one("allow", "", "`LIST`: users and :groups that may connect, else whoever can")
	in("Command")
	onOff(&f.cgi, "cgi", false, "it speaks CGI/1.1; without this, its output is the body")
	one("scripts", "", "`DIR`: CGI programs below it, in place of a command")
	one("content-type", "text/plain; charset=utf-8", "`TYPE`: of that body")
	onOff(&f.stream, "stream", false, "that body goes out as it comes")
	onOff(&f.form, "form", false, "values of forms are variables FORM_NAME")
	many("env", "", "`NAME[=VALUE]`: one more variable, without = copied; repeatable")
	one("dir", "", "`DIR`: where it runs, else / or, with -cgi, its own")
	one("timeout", "60s", "`TIME`: how long it may run for one request")
	one("kill-after", "5s", "`TIME`: from SIGTERM to SIGKILL")
	in("Requests")
	many("param", "", "`NAME`: FastCGI: one more parameter to pass on; repeatable")
	one("script-name", "", "`PREFIX`: of paths, SCRIPT_NAME; the rest is PATH_INFO")
	one("forwarded", "", "`LIST`: headers that the web server in front sets itself")
	one("max-body", "16MiB", "`SIZE`: largest body, in bytes, KiB, MiB or GiB")
	in("Limits")
	one("max-procs", strconv.Itoa(4*runtime.NumCPU()), "`N`: commands running at once, 4 for each CPU")
	one("max-queue", "512", "`N`: requests that wait for one to end")
	one("max-conns", "1024", "`N`: open connections")
	one("spool-dir", "/var/tmp", "`DIR`: files for large bodies")
	in("Service")
	one("drain", "10s", "`TIME`: how long running requests may take at a stop")
	one("sandbox", "on", "`MODE`: on, where FreeBSD refuses to run unconfined, or off")
	one("log-format", "text", "`FORMAT`: text or json, on standard error")
	onOff(&f.accessLog, "access-log", true, "one log record a request")
	onOff(&f.check, "check", false, "check all that a start would, change nothing, and exit")
	onOff(&f.version, "version", false, "print version, Go version and system, and exit")
	return f
}

// form is a flag as it is typed, -timeout TIME, and what it means.
func form(f *flag.Flag) (typed, text string) {
	name, text := flag.UnquoteUsage(f)
	switch {
	case name != "":
		return "-" + f.Name + " " + name, strings.TrimPrefix(text, name+": ")
	case f.DefValue == "true":
		return "-" + f.Name + "=BOOL", text
	}
	return "-" + f.Name, text
}

// usage is what -h prints, one screen.
func (f *flags) usage(w io.Writer) {
	fmt.Fprint(w, "usage: onewake [flags] [--] [command [argument ...]]\n")
	for _, g := range f.groups {
		fmt.Fprintf(w, "\n%s:\n", g.name)
		for _, name := range g.flags {
			fl := f.set.Lookup(name)
			typed, text := form(fl)
			if fl.DefValue != "" && fl.DefValue != "false" {
				text += " (" + fl.DefValue + ")"
			}
			fmt.Fprintf(w, "  %-19s %s\n", typed, strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", 22)))
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
	typed, _ := form(fl)
	return fmt.Errorf("-%s: its value is missing, use %s", name, typed)
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
