package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/hashicorp/go-multierror"

	"github.com/onewake/onewake/internal/scripts"
	"github.com/onewake/onewake/sock"
)

// CheckStart does what -check does: everything that a start would, up to
// bind(2), and changes nothing. wrong is what [Parse] has found. Our own server
// that is running is told of, and is no problem. What is good is told to out.
func CheckStart(ctx context.Context, c *Config, wrong error, out io.Writer) error {
	var errs *multierror.Error
	errs = multierror.Append(errs, Flatten(wrong)...)
	if c == nil {
		return errs.ErrorOrNil()
	}
	if c.Path != "" && c.Path != c.Command[0] {
		fmt.Fprintf(out, "command %q: %s\n", c.Command[0], c.Path)
	}
	if c.Scripts != "" {
		tellScripts(c, out)
	}
	for _, d := range c.doubts() {
		fmt.Fprintln(out, d)
	}
	for _, a := range c.Listen {
		note, err := c.Sock().Check(ctx, a)
		switch {
		case errors.Is(err, sock.ErrLocked):
			fmt.Fprintf(out, "%v: a server of ours is running\n", a)
		case err != nil:
			errs = multierror.Append(errs, err)
		case note != "":
			fmt.Fprintf(out, "%v: %s\n", a, note)
		}
	}
	if errs.ErrorOrNil() == nil {
		fmt.Fprintln(out, "configuration is good")
	}
	return errs.ErrorOrNil()
}

// tellScripts lists the programs of -scripts, and what is none and why.
func tellScripts(c *Config, out io.Writer) {
	t, err := scripts.Read(c.Scripts)
	if err != nil {
		return // told already
	}
	for _, name := range t.Names() {
		if err := checkProgram(filepath.Join(c.Scripts, name)); err != nil {
			fmt.Fprintf(out, "script %s: cannot be run: %v\n", printable(name), err)
		} else {
			fmt.Fprintf(out, "script %s\n", printable(name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.Skipped)) {
		fmt.Fprintf(out, "no script %s: %v\n", printable(name), t.Skipped[name])
	}
}

// printable quotes a name that could pass for a line of its own.
func printable(name string) string {
	if q := strconv.Quote(name); q[1:len(q)-1] != name {
		return q
	}
	return name
}

// doubts are what is allowed, and means nothing or cannot be kept.
func (c *Config) doubts() (all []string) {
	say := func(is bool, text string) {
		if is {
			all = append(all, text)
		}
	}
	fast := c.Protocol == FastCGI
	say(fast && len(c.Forwarded) > 0, "-forwarded: means nothing with -protocol fastcgi, whose parameters are believed")
	say(fast && c.ScriptName != "" && c.Scripts == "", "-script-name: means nothing with -protocol fastcgi, the web server says SCRIPT_NAME")
	say(!fast && len(c.Param) > 0, "-param: means nothing without -protocol fastcgi")
	need, limit := c.OpenFiles()
	say(need > limit, fmt.Sprintf("-max-conns %d: with the other limits it may take %d open files, and the system allows %d (ulimit -n)", c.MaxConns, need, limit))
	say(c.CGI && c.Stream, "-stream: means nothing with -cgi, whose output goes out as it comes")
	return all
}
