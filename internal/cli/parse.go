package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/control"
	"github.com/onewake/onewake/internal/scripts"
	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sock"
)

const (
	// maxDuration is a year, so that sums of durations do not overflow.
	maxDuration = 365 * 24 * time.Hour
	// commandPath is the PATH of commands.
	commandPath = "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
	// Hints for unknown names.
	listUsers  = " (to list users: getent passwd)"
	listGroups = " (to list groups: getent group)"
)

// Action is what the command line asks for.
type Action int

// The actions.
const (
	Run     Action = iota // start the service
	Check                 // -check
	Version               // -version
	Help                  // -h; Parse has printed the text
)

// Parse parses the command line. The error contains all problems; see
// [ExitStatus] and [Report].
func Parse(args []string) (*Config, Action, error) {
	f := newFlags()
	f.set.SetOutput(io.Discard) // errors are reported by the caller
	if err := f.set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			usage(os.Stdout)
			return nil, Help, nil
		}
		// The argument that package flag stopped at is among the remaining
		// ones only after "bad flag syntax".
		i := len(args) - f.set.NArg()
		if !strings.HasPrefix(err.Error(), "bad flag syntax") {
			i--
		}
		return nil, Run, usageError{errors.New(f.badArgument(args[i]) + "\nonewake -h lists the flags")}
	}
	if f.on("version") {
		return nil, Version, nil
	}
	c := &Config{
		CGI: f.on("cgi"), Stream: f.on("stream"), Form: f.on("form"), AccessLog: f.on("access-log"), Command: f.set.Args(), Times: DefaultTimes,
	}
	p := &parser{flags: f}
	c.Protocol = p.choice("protocol", HTTP, FastCGI)
	p.listen(c)
	p.perms(c)
	p.allow(c)
	p.env(c)
	p.utf8("content-type", "script-name", "scripts")
	c.ContentType = p.contentType()
	if p.text("dir") != "" {
		c.Dir = p.directory("dir", unix.X_OK, "enter it")
	}
	c.SpoolDir = p.directory("spool-dir", unix.W_OK|unix.X_OK, "create files there, use another directory such as /var/tmp")
	c.ScriptName = p.scriptName()
	p.forwarded(c)
	p.params(c)
	c.Timeout = p.duration("timeout")
	c.KillAfter = p.duration("kill-after")
	c.Drain = p.duration("drain")
	c.MaxProcs = p.count("max-procs", 1)
	c.MaxQueue = p.count("max-queue", 0)
	c.MaxConns = p.count("max-conns", 1)
	c.MaxBody = p.size("max-body")
	c.Sandbox = p.choice("sandbox", "on", "off") == "on"
	c.LogFormat = p.choice("log-format", Text, JSON)
	if p.all["scripts"].set {
		p.scripts(c)
	} else {
		p.command(c)
	}
	p.dir(c)
	action := Run
	if f.on("check") {
		action = Check
	}
	return c, action, p.errs.ErrorOrNil()
}

// parser converts the values of flags and collects errors.
type parser struct {
	*flags
	errs *multierror.Error
}

// usage adds an error of exit status 64.
func (p *parser) usage(format string, args ...any) {
	p.errs = multierror.Append(p.errs, usageError{fmt.Errorf(format, args...)})
}

// bad adds an error about the value of a flag.
func (p *parser) bad(name, text, problem string) { p.usage("-%s %q: %s", name, text, problem) }

// config adds an error of exit status 78.
func (p *parser) config(format string, args ...any) {
	p.errs = multierror.Append(p.errs, configError{fmt.Errorf(format, args...)})
}

func (p *parser) listen(c *Config) {
	seen := make(map[sock.Addr]bool)
	for _, s := range p.all["listen"].texts {
		a, err := sock.Parse(s)
		switch {
		case err != nil:
			p.bad("listen", s, errors.Unwrap(err).Error()) // without the address
		case seen[a] && !strings.HasSuffix(a.Address, ":0"):
			p.bad("listen", s, "given twice")
		default:
			seen[a] = true
			c.Listen = append(c.Listen, a)
		}
	}
}

func (p *parser) perms(c *Config) {
	if mode, err := perms.ParseMode(p.text("socket-mode")); err != nil {
		p.bad("socket-mode", p.text("socket-mode"), "not an octal mode from 0 to 0777, such as 0660")
	} else {
		c.SocketPerms.Mode = perms.Set(mode)
	}
	c.SocketPerms.UID = p.id("socket-owner", perms.LookupUser, "no such user"+listUsers)
	c.SocketPerms.GID = p.id("socket-group", perms.LookupGroup, "no such group"+listGroups)
}

// id looks up the user or group of a flag.
func (p *parser) id(flag string, lookUp func(string) (int, error), missing string) (s perms.Setting) {
	if name := p.text(flag); name != "" {
		id, err := lookUp(name)
		if err != nil {
			p.config("-%s %q: %s", flag, name, missing)
			return s
		}
		s = perms.Set(id)
	}
	return s
}

func (p *parser) allow(c *Config) {
	if c.Allow.Set = p.all["allow"].set; !c.Allow.Set {
		return
	}
	for name := range strings.SplitSeq(p.text("allow"), ",") {
		name = strings.TrimSpace(name)
		group, isGroup := strings.CutPrefix(name, ":")
		gid, noGroup := perms.LookupGroup(group)
		uid, noUser := perms.LookupUser(name)
		problem := "no such user, separate names by commas and write a group as :GROUP" + listUsers
		switch {
		case name == "":
			problem = "empty name, use USER or :GROUP separated by commas, or do not use -allow"
		case isGroup && noGroup == nil:
			c.Allow.GIDs = append(c.Allow.GIDs, gid)
			continue
		case isGroup:
			problem = "no such group" + listGroups
		case noUser == nil:
			c.Allow.UIDs = append(c.Allow.UIDs, uid)
			continue
		case noGroup == nil:
			problem = "a group, not a user, use :" + name
		}
		p.config("-allow %q: %q: %s", p.text("allow"), name, problem)
	}
}

// env sets the environment of commands. PATH is always the first variable.
func (p *parser) env(c *Config) {
	index := map[string]int{"PATH": 0}
	c.Env = []string{"PATH=" + commandPath}
	for _, s := range p.all["env"].texts {
		name, _, hasValue := strings.Cut(s, "=")
		switch {
		case name == "":
			p.bad("env", s, "no name, use NAME=VALUE, or NAME to copy the value")
			continue
		case strings.IndexByte(s, 0) >= 0:
			p.bad("env", s, "contains NUL")
			continue
		case control.IsRequestVariable(name):
			p.bad("env", s, name+" is set by requests, use another name")
			continue
		case !hasValue:
			v, ok := os.LookupEnv(name)
			if !ok {
				p.config("-env %q: not in the environment of onewake, use %[1]s=VALUE", name)
				continue
			}
			s = name + "=" + v
		}
		if i, ok := index[name]; ok {
			c.Env[i] = s
			continue
		}
		index[name] = len(c.Env)
		c.Env = append(c.Env, s)
	}
}

// utf8 checks values that are sent to the core as JSON.
func (p *parser) utf8(names ...string) {
	for _, name := range names {
		if s := p.text(name); !utf8.ValidString(s) {
			p.bad(name, s, "not UTF-8")
		}
	}
}

func (p *parser) contentType() string {
	s := p.text("content-type")
	if !strings.Contains(s, "/") || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		p.bad("content-type", s, "not a media type, such as text/html")
	}
	return s
}

// directory checks that the directory of a flag exists and that access(2) allows
// mode. Else the user cannot do what purpose says.
func (p *parser) directory(name string, mode uint32, purpose string) string {
	dir := p.text(name)
	if !filepath.IsAbs(dir) {
		abs, err := filepath.Abs(dir)
		if dir == "" || err != nil {
			abs = "/var/tmp"
		}
		p.bad(name, dir, "not an absolute path, use "+abs)
		return dir
	}
	fi, err := os.Stat(dir)
	if err != nil {
		err = errors.Unwrap(err) // without the path
	} else if fi.IsDir() {
		err = unix.Faccessat(unix.AT_FDCWD, dir, mode, unix.AT_EACCESS)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		p.errs = multierror.Append(p.errs, fmt.Errorf("-%s %q: %w: user %s cannot %s", name, dir, fs.ErrPermission, perms.UserName(os.Geteuid()), purpose))
	case errors.Is(err, fs.ErrNotExist):
		p.config("-%s %q: %w (to fix: install -d -o %s %s)", name, dir, err, perms.UserName(os.Geteuid()), dir)
	case err != nil:
		p.config("-%s %q: %w", name, dir, err)
	case !fi.IsDir():
		p.config("-%s %q: not a directory, use %s", name, dir, filepath.Dir(dir))
	}
	return filepath.Clean(dir)
}

// dir sets the working directory if -dir was not given. A CGI program runs in its
// own directory (RFC 3875 § 7.2).
func (p *parser) dir(c *Config) {
	switch {
	case p.text("dir") != "":
	case c.Scripts != "": // depends on the script
	case c.CGI && c.Path != "":
		c.Dir = filepath.Dir(c.Path)
	default:
		c.Dir = "/"
	}
}

func (p *parser) scriptName() string {
	s := p.text("script-name")
	if s == "/" {
		return ""
	}
	if s != "" && (s[0] != '/' || strings.HasSuffix(s, "/") || strings.ContainsAny(s, "?#\x00")) {
		p.bad("script-name", s, "not a path such as /cgi-bin/foo, which has no ? or # and does not end in a slash")
	}
	return s
}

func (p *parser) forwarded(c *Config) {
	for name := range strings.SplitSeq(p.text("forwarded"), ",") {
		name = strings.TrimSpace(name)
		i := slices.IndexFunc(ForwardedHeaders, func(h string) bool { return strings.EqualFold(h, name) })
		if i >= 0 {
			c.Forwarded = append(c.Forwarded, ForwardedHeaders[i])
		} else if name != "" {
			p.bad("forwarded", p.text("forwarded"), fmt.Sprintf("%q is not one of %s", name, strings.Join(ForwardedHeaders, ", ")))
		}
	}
}

func (p *parser) params(c *Config) {
	for _, s := range p.all["param"].texts {
		if bad := BadParam(s); bad != "" {
			p.bad("param", s, bad)
		} else {
			c.Param = append(c.Param, s)
		}
	}
}

// BadParam says why -param cannot name a parameter. It returns "" if it can.
func BadParam(s string) string {
	switch {
	case s == "" || strings.ContainsFunc(s, func(r rune) bool { return r != '_' && (r < 'A' || r > 'Z') && (r < '0' || r > '9') }):
		return "not the name of a parameter, which consists of capital letters, digits and _"
	case s == "PATH" || s == "HTTP_PROXY" || strings.HasPrefix(s, "LD_"):
		return "never taken from a request"
	}
	return ""
}

// scripts checks that the directory of -scripts can be read.
func (p *parser) scripts(c *Config) {
	c.CGI = true
	before := len(p.errs.WrappedErrors())
	c.Scripts = p.directory("scripts", unix.R_OK|unix.X_OK, "read it")
	ok := before == len(p.errs.WrappedErrors())
	if len(c.Command) > 0 {
		p.usage("-scripts %q: cannot be used with a command, %q", c.Scripts, c.Command[0])
	} else if _, err := scripts.Read(c.Scripts); err != nil && ok {
		p.config("-scripts %q: %w", c.Scripts, err)
	}
}

func (p *parser) duration(name string) time.Duration {
	d, err := time.ParseDuration(p.text(name))
	if s, serr := time.ParseDuration(p.text(name) + "s"); err != nil && serr == nil && s > 0 {
		p.bad(name, p.text(name), "no unit, use for example "+p.text(name)+"s")
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
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if d, ok := strings.CutSuffix(s, unit); ok {
			digits, shift = d, 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 62)
	if err != nil || n == 0 || n > 1<<(62-shift) {
		return 0, errors.New("not a size above 0, such as 65536, 512KiB or 16MiB")
	}
	return int64(n) << shift, nil
}

func (p *parser) choice(name string, words ...string) string {
	if !slices.Contains(words, p.text(name)) {
		p.bad(name, p.text(name), "unknown value, use "+strings.Join(words, " or "))
	}
	return p.text(name)
}
