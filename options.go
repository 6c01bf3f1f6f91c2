package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"

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

// flags declares all flags. Their texts are what -h prints.
type flags struct {
	set *flag.FlagSet
	all map[string]*value

	cgi, accessLog, check, version bool
}

func newFlags() *flags {
	f := &flags{set: flag.NewFlagSet("onewake", flag.ContinueOnError), all: make(map[string]*value)}
	f.set.SetOutput(io.Discard)
	one := func(name, def, usage string) {
		v := &value{texts: []string{def}}
		f.all[name] = v
		f.set.Var(v, name, usage)
	}
	many := func(name, def, usage string) {
		v := &value{many: true}
		if def != "" {
			v.texts = []string{def}
		}
		f.all[name] = v
		f.set.Var(v, name, usage)
	}
	many("listen", defaultListen, "serve on `ADDR`: unix:/path, tcp4:host:port, tcp6:[host%zone]:port or fd:N; repeatable")
	one("socket-mode", "0660", "`OCTAL` mode of the socket file")
	one("socket-owner", "", "`USER` to give the socket file to (only root may)")
	one("socket-group", "", "`GROUP` to give the socket file to; default as the directory makes it")
	one("allow", "", "`LIST` of users and :groups that may connect to unix sockets; default anyone the mode lets in")
	f.set.BoolVar(&f.cgi, "cgi", false, "the command speaks CGI/1.1")
	one("content-type", "text/plain; charset=utf-8", "`TYPE` of raw output")
	many("env", "", "give the command one more variable, `NAME[=VALUE]`; without = copied from here; repeatable")
	one("dir", "/", "the command's working `DIR`ectory")
	one("script-name", "", "SCRIPT_NAME `PREFIX`; PATH_INFO is the rest of the path")
	one("forwarded", "", "`LIST` of headers that the web server in front sets itself and that are believed")
	one("timeout", "60s", "`DURATION` of one request's command, start to end")
	one("kill-after", "5s", "`DURATION` from SIGTERM to SIGKILL")
	one("max-procs", strconv.Itoa(4*runtime.NumCPU()), "at most `N` commands running at once; default 4 for each CPU")
	one("max-queue", "512", "at most `N` requests waiting for a command to end")
	one("max-body", "16MiB", "largest request body, a `SIZE` in bytes, KiB, MiB or GiB")
	one("spool-dir", "/var/tmp", "`DIR`ectory for large bodies and what slow clients have not read")
	one("max-conns", "", "at most `N` open connections; default what RLIMIT_NOFILE allows")
	one("drain", "10s", "`DURATION` that running requests may take at stop")
	one("sandbox", "on", "`MODE`: on (FreeBSD: refuse to run unconfined) or off")
	one("log-format", "text", "`FORMAT` of the log: text or json")
	f.set.BoolVar(&f.accessLog, "access-log", true, "one log record a request")
	f.set.BoolVar(&f.check, "check", false, "check everything that a start would, change nothing, and exit")
	f.set.BoolVar(&f.version, "version", false, "print version, Go version and system, and exit")
	return f
}

func (f *flags) usage(w io.Writer) {
	fmt.Fprint(w, "usage: onewake [flags] [--] [command [argument ...]]\n\nflags:\n")
	f.set.SetOutput(w)
	f.set.PrintDefaults()
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
		return nil, usageError{fmt.Errorf("%w\nonewake -h lists the flags", err)}
	}
	o := &options{cgi: f.cgi, accessLog: f.accessLog, check: f.check, version: f.version, command: f.set.Args()}
	if o.version {
		return o, nil
	}
	p := &parser{flags: f}
	p.listen(o)
	p.perms(o)
	p.allow(o)
	p.env(o)
	o.mime = p.mime()
	o.dir = p.directory("dir")
	o.spoolDir = p.directory("spool-dir")
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
			p.errs = multierror.Append(p.errs, usageError{fmt.Errorf("-listen: %w", err)})
		case seen[a] && !strings.HasSuffix(a.Address, ":0"):
			p.bad("listen", s, "given twice")
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
		p.config(fmt.Errorf("-socket-owner %q: no such user", owner))
		owner = ""
	}
	if _, err := perms.Parse("", "", group); err != nil {
		p.config(fmt.Errorf("-socket-group %q: no such group", group))
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
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		if group, ok := strings.CutPrefix(name, ":"); ok {
			gid, err := perms.LookupGroup(group)
			if err != nil {
				p.config(fmt.Errorf("-allow %q: %q: no such group", text, name))
				continue
			}
			o.allow.GIDs = append(o.allow.GIDs, gid)
			continue
		}
		uid, err := perms.LookupUser(name)
		if err != nil {
			p.config(fmt.Errorf("-allow %q: %q: no such user; a group is written :GROUP", text, name))
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
			p.bad("env", s, "no name before the =")
			continue
		case strings.IndexByte(s, 0) >= 0:
			p.bad("env", s, "NUL in a variable")
			continue
		case spawn.IsRequestVariable(name):
			p.bad("env", s, name+" comes from each request")
			continue
		case !given:
			v, ok := os.LookupEnv(name)
			if !ok {
				p.config(fmt.Errorf("-env %s: not set in the environment of onewake", name))
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
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		p.bad("content-type", s, "not a media type, such as text/html")
	}
	return s
}

func (p *parser) directory(name string) string {
	dir := p.text(name)
	if !filepath.IsAbs(dir) {
		p.bad(name, dir, "not an absolute path")
		return dir
	}
	if fi, err := os.Stat(dir); err != nil {
		p.config(fmt.Errorf("-%s %s: %w", name, dir, cause(err)))
	} else if !fi.IsDir() {
		p.config(fmt.Errorf("-%s %s: not a directory", name, dir))
	}
	return filepath.Clean(dir)
}

func (p *parser) script() string {
	s := p.text("script-name")
	if s == "/" {
		return ""
	}
	if s != "" && (s[0] != '/' || strings.HasSuffix(s, "/") || strings.ContainsAny(s, "?#\x00")) {
		p.bad("script-name", s, "not empty, nor a path like /cgi-bin/foo without a slash at its end")
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
	if err != nil || d <= 0 || d > maxDuration {
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
	p.bad(name, p.text(name), "not "+strings.Join(words, " or "))
	return 0
}

// command finds the program. Its path is made absolute here, once: each start
// changes directory before it executes.
func (p *parser) command(o *options) {
	if len(o.command) == 0 {
		if o.cgi {
			p.errs = multierror.Append(p.errs, usageError{errors.New("-cgi: no command is given")})
		}
		return
	}
	name := o.command[0]
	path, err := exec.LookPath(name)
	if err != nil && !strings.Contains(name, "/") {
		for _, dir := range filepath.SplitList(commandPath) {
			if found, err2 := exec.LookPath(filepath.Join(dir, name)); err2 == nil {
				path, err = found, nil
				break
			}
		}
	}
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		err = cause(err)
		if errors.Is(err, exec.ErrNotFound) {
			err = fmt.Errorf("not found in PATH nor in %s", commandPath)
		} else if errors.Is(err, fs.ErrPermission) {
			err = errors.New("not an executable file")
		}
		p.config(fmt.Errorf("command %q: %w", name, err))
		return
	}
	o.path = path
}

// cause takes the operation and the path off an error that will name them in
// its own words.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	var ee *exec.Error
	if errors.As(err, &ee) {
		return cause(ee.Err)
	}
	return err
}
