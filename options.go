package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/gateway"
	"github.com/onewake/onewake/journal"
	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sock"
	"github.com/onewake/onewake/spawn"
)

const (
	defaultListen = "unix:/var/run/onewake/onewake.sock"
	// maxDuration, a year, keeps sums of durations from overflowing.
	maxDuration = 365 * 24 * time.Hour
	// commandPath is PATH for the command, whatever the daemon's own is.
	commandPath = "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
	// What to do about a name that nobody has.
	listUsers  = " (to see all: getent passwd)"
	listGroups = " (to see all: getent group)"
)

// options is the command line, parsed and checked.
type options struct {
	listen    []sock.Addr
	perms     perms.Spec
	allow     allowList
	cgi       bool
	mime      string
	env       []string // NAME=VALUE
	dir       string
	script    string
	forwarded gateway.Forwarded
	timeout   time.Duration
	killAfter time.Duration
	maxProcs  int
	maxQueue  int
	maxBody   int64
	spoolDir  string
	maxConns  int
	drain     time.Duration
	sandbox   bool
	format    journal.Format
	accessLog bool
	check     bool
	version   bool

	command []string // argv, empty for the test page
	path    string   // of the command, absolute

	doubts []string // what is allowed, and perhaps not meant
}

// allowList is who may connect to Unix listeners by -allow.
type allowList struct {
	Set  bool
	UIDs []int
	GIDs []int
}

// usageError is a command line that cannot be understood: exit status 64.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// configError is one that can, and will not work: exit status 78.
type configError struct{ err error }

func (e configError) Error() string { return e.err.Error() }
func (e configError) Unwrap() error { return e.err }

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

	cgi, accessLog, check, version bool
}

type group struct {
	name  string
	flags []string
}

func newFlags() *flags {
	f := &flags{set: flag.NewFlagSet("onewake", flag.ContinueOnError), all: make(map[string]*value)}
	f.set.SetOutput(io.Discard)
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
	one("socket-mode", "0660", "`OCTAL`: mode of the socket file")
	one("socket-owner", "", "`USER`: owner of the socket file; only root may give it away")
	one("socket-group", "", "`GROUP`: group of the socket file, else as the directory makes it")
	one("allow", "", "`LIST`: users and :groups that may connect, else whoever can")
	in("Command")
	onOff(&f.cgi, "cgi", false, "it speaks CGI/1.1; without this, its output is the body")
	one("content-type", "text/plain; charset=utf-8", "`TYPE`: of that body")
	many("env", "", "`NAME[=VALUE]`: one more variable, without = copied; repeatable")
	one("dir", "/", "`DIR`: where it runs")
	one("timeout", "60s", "`TIME`: how long it may run for one request")
	one("kill-after", "5s", "`TIME`: from SIGTERM to SIGKILL")
	in("Requests")
	one("script-name", "", "`PREFIX`: of paths, SCRIPT_NAME; the rest is PATH_INFO")
	one("forwarded", "", "`LIST`: headers that the web server in front sets itself")
	one("max-body", "16MiB", "`SIZE`: largest body, in bytes, KiB, MiB or GiB")
	in("Limits")
	one("max-procs", strconv.Itoa(4*runtime.NumCPU()), "`N`: commands running at once, 4 for each CPU")
	one("max-queue", "512", "`N`: requests that wait for one to end")
	one("max-conns", "", "`N`: open connections, else what RLIMIT_NOFILE allows")
	one("spool-dir", "/var/tmp", "`DIR`: files for large bodies and slow clients")
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

// parseOptions parses the command line. All problems are in the error, a
// [multierror.Error] of usageError and configError.
func parseOptions(args []string) (*options, error) {
	f := newFlags()
	if err := f.set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			f.usage(os.Stdout)
			return nil, err
		}
		// Package flag has taken the argument that it stopped at, unless it is
		// not of a flag's form.
		i := len(args) - f.set.NArg()
		if !strings.HasPrefix(err.Error(), "bad flag syntax") {
			i--
		}
		return nil, usageError{fmt.Errorf("%w\nonewake -h lists the flags", f.misuse(args[i]))}
	}
	o := &options{cgi: f.cgi, accessLog: f.accessLog, check: f.check, version: f.version, command: f.set.Args()}
	if o.version {
		return o, nil
	}
	p := &parser{flags: f}
	if n := len(args) - len(o.command); n > 0 {
		p.last = args[n-1]
	}
	p.listen(o)
	p.perms(o)
	p.allow(o)
	p.env(o)
	o.mime = p.mime()
	o.dir = p.directory("dir", unix.X_OK, "enter it")
	o.spoolDir = p.directory("spool-dir", unix.W_OK|unix.X_OK, "make files there, use one where it can, such as /var/tmp")
	o.script = p.script()
	p.forwarded(o)
	o.timeout = p.duration("timeout")
	o.killAfter = p.duration("kill-after")
	o.drain = p.duration("drain")
	o.maxProcs = p.count("max-procs", 1)
	o.maxQueue = p.count("max-queue", 0)
	if p.text("max-conns") != "" {
		o.maxConns = p.count("max-conns", 1)
	}
	o.maxBody = p.size("max-body")
	o.sandbox = p.choice("sandbox", "on", "off") == 0
	o.format = journal.Format(p.choice("log-format", "text", "json"))
	p.command(o)
	return o, p.errs.ErrorOrNil()
}

// parser turns flags' texts into options and collects what is wrong.
type parser struct {
	*flags
	errs *multierror.Error
	last string // argument before the command
}

func (p *parser) text(name string) string { return p.all[name].texts[0] }

// bad notes a value of a flag that cannot be used.
func (p *parser) bad(name, text, want string) {
	p.errs = multierror.Append(p.errs, usageError{fmt.Errorf("-%s %q: %s", name, text, want)})
}

func (p *parser) config(err error) {
	p.errs = multierror.Append(p.errs, configError{err})
}

func (p *parser) listen(o *options) {
	seen := make(map[sock.Addr]bool)
	for _, s := range p.all["listen"].texts {
		a, err := sock.Parse(s)
		switch {
		case err != nil:
			p.bad("listen", s, errors.Unwrap(err).Error()) // without the address
		case seen[a] && !strings.HasSuffix(a.Address, ":0"):
			p.bad("listen", s, "given twice, once is enough")
		default:
			seen[a] = true
			o.listen = append(o.listen, a)
		}
	}
}

func (p *parser) perms(o *options) {
	mode, owner, group := p.text("socket-mode"), p.text("socket-owner"), p.text("socket-group")
	if _, err := perms.Parse(mode, "", ""); mode == "" || err != nil {
		p.bad("socket-mode", mode, "not an octal mode from 0 to 0777, such as 0660")
		mode = ""
	}
	if _, err := perms.Parse("", owner, ""); err != nil {
		p.config(fmt.Errorf("-socket-owner %q: no such user%s", owner, listUsers))
		owner = ""
	}
	if _, err := perms.Parse("", "", group); err != nil {
		p.config(fmt.Errorf("-socket-group %q: no such group%s", group, listGroups))
		group = ""
	}
	o.perms, _ = perms.Parse(mode, owner, group)
}

func (p *parser) allow(o *options) {
	text := p.text("allow")
	if !p.all["allow"].set {
		return
	}
	o.allow.Set = true
	if len(o.listen) > 0 && !slices.ContainsFunc(o.listen, func(a sock.Addr) bool { return a.Network == sock.Unix || a.Network == sock.FD }) {
		o.doubts = append(o.doubts, fmt.Sprintf("-allow %q: everybody can connect all the same, it is for unix sockets and there is none", text))
	}
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		if group, ok := strings.CutPrefix(name, ":"); ok {
			gid, err := perms.LookupGroup(group)
			if err != nil {
				p.config(fmt.Errorf("-allow %q: %q: no such group%s", text, name, listGroups))
				continue
			}
			o.allow.GIDs = append(o.allow.GIDs, gid)
			continue
		}
		uid, err := perms.LookupUser(name)
		if err != nil {
			why := "no such user, a group is written :GROUP and a comma is between names" + listUsers
			if _, err := perms.LookupGroup(name); err == nil {
				why = "a group and no user, use :" + name
			}
			if name == "" {
				why = "no name, use USER or :GROUP with a comma between them, or no -allow at all"
			}
			p.config(fmt.Errorf("-allow %q: %q: %s", text, name, why))
			continue
		}
		o.allow.UIDs = append(o.allow.UIDs, uid)
	}
}

func (p *parser) env(o *options) {
	have := map[string]int{"PATH": 0}
	o.env = []string{"PATH=" + commandPath}
	for _, s := range p.all["env"].texts {
		name, _, given := strings.Cut(s, "=")
		switch {
		case name == "":
			p.bad("env", s, "no name, use NAME=VALUE, or NAME to copy it")
			continue
		case strings.IndexByte(s, 0) >= 0:
			p.bad("env", s, "NUL in a variable")
			continue
		case spawn.IsRequestVariable(name):
			p.bad("env", s, name+" is kept for what requests say, use another name")
			continue
		case !given:
			v, ok := os.LookupEnv(name)
			if !ok {
				p.config(fmt.Errorf("-env %q: not in the environment of onewake, set it there or use %s=VALUE", name, name))
				continue
			}
			s = name + "=" + v
		}
		if i, ok := have[name]; ok {
			o.env[i] = s
			continue
		}
		have[name] = len(o.env)
		o.env = append(o.env, s)
	}
}

func (p *parser) mime() string {
	s := p.text("content-type")
	if !strings.Contains(s, "/") || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		p.bad("content-type", s, "not a media type, such as text/html")
	}
	return s
}

// directory makes sure that the directory of a flag is there and usable: mode is
// that of access(2).
func (p *parser) directory(name string, mode uint32, why string) string {
	dir := p.text(name)
	if !filepath.IsAbs(dir) {
		abs, err := filepath.Abs(dir)
		if dir == "" || err != nil {
			abs = p.set.Lookup(name).DefValue
		}
		p.bad(name, dir, "not an absolute path, use "+abs)
		return dir
	}
	fi, err := os.Stat(dir)
	if err == nil && fi.IsDir() {
		err = unix.Faccessat(unix.AT_FDCWD, dir, mode, unix.AT_EACCESS)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		p.errs = multierror.Append(p.errs, fmt.Errorf("-%s %q: %w: user %s cannot %s", name, dir, fs.ErrPermission, perms.UserName(os.Geteuid()), why))
	case errors.Is(err, fs.ErrNotExist):
		p.config(fmt.Errorf("-%s %q: %w (to mend: install -d -o %s %s)", name, dir, cause(err), perms.UserName(os.Geteuid()), dir))
	case err != nil:
		p.config(fmt.Errorf("-%s %q: %w", name, dir, cause(err)))
	case !fi.IsDir():
		p.config(fmt.Errorf("-%s %q: not a directory, use %s", name, dir, filepath.Dir(dir)))
	}
	return filepath.Clean(dir)
}

func (p *parser) script() string {
	s := p.text("script-name")
	if s == "/" {
		return ""
	}
	if s != "" && (s[0] != '/' || strings.HasSuffix(s, "/") || strings.ContainsAny(s, "?#\x00")) {
		p.bad("script-name", s, "not a path such as /cgi-bin/foo, without ? or # and without a slash at its end")
	}
	return s
}

func (p *parser) forwarded(o *options) {
	var err error
	if o.forwarded, err = gateway.ParseForwarded(p.text("forwarded")); err != nil {
		p.bad("forwarded", p.text("forwarded"), err.Error())
	}
}

func (p *parser) duration(name string) time.Duration {
	d, err := time.ParseDuration(p.text(name))
	if s, serr := time.ParseDuration(p.text(name) + "s"); err != nil && serr == nil && s > 0 {
		p.bad(name, p.text(name), "no unit, use "+p.text(name)+"s or such")
	} else if err != nil || d <= 0 || d > maxDuration {
		p.bad(name, p.text(name), "not a duration above 0 and up to 8760h, such as 90s or 2m30s")
	}
	return d
}

func (p *parser) count(name string, least int) int {
	n, err := strconv.Atoi(p.text(name))
	if err != nil || n < least || n > 1<<30 {
		p.bad(name, p.text(name), fmt.Sprintf("not a number from %d to %d", least, 1<<30))
	}
	return n
}

func (p *parser) size(name string) int64 {
	n, err := parseSize(p.text(name))
	if err != nil {
		p.bad(name, p.text(name), err.Error())
	}
	return n
}

// parseSize parses a number of bytes, or of KiB, MiB or GiB.
func parseSize(s string) (int64, error) {
	digits, shift := s, 0
	for _, u := range []struct {
		unit  string
		shift int
	}{{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"K", 10}, {"M", 20}, {"G", 30}} {
		if d, ok := strings.CutSuffix(s, u.unit); ok {
			digits, shift = d, u.shift
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 62)
	if err != nil || n == 0 || n > 1<<(62-shift) {
		return 0, errors.New("not a size above 0, such as 65536, 512KiB or 16MiB")
	}
	return int64(n) << shift, nil
}

func (p *parser) choice(name string, words ...string) int {
	for i, w := range words {
		if p.text(name) == w {
			return i
		}
	}
	p.bad(name, p.text(name), "not one of its values, use "+strings.Join(words, " or "))
	return 0
}

// cause takes the operation and the path off an error that will name them in
// its own words.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
