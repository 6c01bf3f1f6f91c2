package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// The command is looked at once, at start, so that what would fail at every
// request is told to whoever starts the service. The same command line means
// the same program from a shell and from rc(8): a name alone is looked for in
// the PATH that the command gets, never in that of the daemon.

// command finds the program and makes its path absolute: each start changes
// directory before it executes.
func (p *parser) command(o *options) {
	if len(o.command) == 0 {
		if o.cgi {
			p.errs = multierror.Append(p.errs, usageError{errors.New("-cgi: no command is given, put one behind the flags")})
		}
		return
	}
	name := o.command[0]
	path, err := findCommand(name, pathOf(o.env))
	if err == nil {
		var doubt string
		if doubt, err = checkProgram(path, o.dir, o.env); doubt != "" {
			o.doubts = append(o.doubts, fmt.Sprintf("command %q: %s", name, doubt))
		}
		if path != name && err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	if err != nil {
		p.config(fmt.Errorf("command %q: %w%s", name, err, p.slip(name)))
		return
	}
	o.path = path
	p.laterFlags(o)
}

// slip tells what may have been meant by a command that there is none of.
func (p *parser) slip(name string) string {
	before := strings.TrimLeft(p.last, "-")
	fl := p.set.Lookup(before)
	switch {
	case name == "help":
		return " (the flag is -h)"
	case p.set.Lookup(name) != nil:
		return fmt.Sprintf(" (the flag is -%s)", name)
	case fl != nil && before != p.last && slices.Contains([]string{"true", "false", "yes", "no", "on", "off", "0", "1"}, name):
		return fmt.Sprintf(" (the flag is -%s=true or -%[1]s=false)", before)
	}
	return ""
}

// laterFlags finds arguments of the command that are flags of ours. They may
// well be the command's; -- before it says so.
func (p *parser) laterFlags(o *options) {
	if p.last == "--" {
		return
	}
	for _, arg := range o.command[1:] {
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		if arg == "--" {
			return
		}
		if arg != name && strings.HasPrefix(arg, "-") && p.set.Lookup(name) != nil && name != "version" {
			o.doubts = append(o.doubts, fmt.Sprintf("%s: behind the command, and so given to it (if that is meant, put -- before the command)", arg))
		}
	}
}

// findCommand gives the absolute path of a command; list is its PATH.
func findCommand(name, list string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("empty, give the path of a program, or nothing for the test page")
	case strings.Contains(name, "/"):
		return filepath.Abs(name)
	}
	path, err := search(list, name)
	if err != nil {
		err = fmt.Errorf("not in PATH=%s, give its absolute path", list)
		if there := elsewhere(name); there != "" {
			err = fmt.Errorf("%w, %s", err, there)
		}
	}
	return path, err
}

// pathOf is the PATH in a list of variables, empty if there is none.
func pathOf(env []string) (list string) {
	for _, v := range env {
		if s, ok := strings.CutPrefix(v, "PATH="); ok {
			list = s
		}
	}
	return list
}

// search looks for a program in the directories of a PATH.
func search(list, name string) (string, error) {
	for _, dir := range filepath.SplitList(list) {
		path := filepath.Join(dir, name)
		if filepath.IsAbs(path) && checkExecutable(path) == nil {
			return path, nil
		}
	}
	return "", fs.ErrNotExist
}

// elsewhere tells where in the daemon's own PATH a program is.
func elsewhere(name string) string {
	if path, err := exec.LookPath(name); err == nil && filepath.IsAbs(path) {
		return path
	}
	return ""
}

// checkExecutable tells why a file cannot be executed.
func checkExecutable(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		if err = cause(err); errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: user %s cannot look into its directory", err, perms.UserName(os.Geteuid()))
		}
		return err
	}
	switch {
	case fi.IsDir():
		return errors.New("a directory, give the path of a program")
	case !fi.Mode().IsRegular():
		return errors.New("not a regular file, give the path of a program")
	}
	err = unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
	if errors.Is(err, fs.ErrPermission) {
		if fi.Mode()&0o111 == 0o111 {
			return fmt.Errorf("not executable for user %s, though its mode is %#o: is it mounted with noexec?", perms.UserName(os.Geteuid()), fi.Mode().Perm())
		}
		return fmt.Errorf("not executable for user %s (to mend: chmod a+x %s)", perms.UserName(os.Geteuid()), path)
	}
	return err
}

// checkProgram finds out what execve(2) would say. What is sure to fail is an
// error; a format that only this machine's administrator may know to work, such
// as one of binmiscctl(8) or binfmt_misc, is a doubt.
func checkProgram(path, dir string, env []string) (doubt string, err error) {
	if err := checkExecutable(path); err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", nil // it may be executed without being read
	}
	defer f.Close()
	head := make([]byte, 4096)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return "", cause(err)
	}
	head = head[:n]
	text, isScript := bytes.CutPrefix(head, []byte("#!"))
	switch {
	case n == 0:
		return "", errors.New("an empty file, give the path of a program")
	case isScript:
		line, _, _ := bytes.Cut(text, []byte("\n"))
		return checkScript(string(line), dir, env)
	case bytes.HasPrefix(head, []byte("\xef\xbb\xbf#!")):
		return "", errors.New("a byte order mark is before its #!, save it without one")
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		return otherMachine(head), nil
	case bytes.IndexByte(head, 0) < 0:
		return "", fmt.Errorf("a script whose first line is not #!, which says what runs it (to mend: put #!/bin/sh or such there, or give the command as /bin/sh %s)", path)
	case runtime.GOOS == "darwin":
		return "", nil
	}
	return "neither ELF nor a script, this system may not execute it", nil
}

// otherMachine compares a program's ELF header with our own.
func otherMachine(head []byte) string {
	kind := func(h []byte) string {
		if len(h) < 20 {
			return ""
		}
		return string(h[elf.EI_CLASS:elf.EI_VERSION]) + string(h[18:20]) // and e_machine
	}
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	f, err := os.Open(self)
	if err != nil {
		return ""
	}
	defer f.Close()
	ours := make([]byte, 20)
	if _, err := io.ReadFull(f, ours); err != nil || kind(ours) == kind(head) || !bytes.HasPrefix(ours, []byte(elf.ELFMAG)) {
		return ""
	}
	return "a program for another kind of machine than onewake, this system may not execute it"
}

// checkScript looks at what follows the #!: the path of an interpreter and, the
// rest of the line, one argument for it.
func checkScript(line, dir string, env []string) (doubt string, err error) {
	const mend = "save it with line ends of Unix (tr -d '\\r')"
	bare, isDOS := strings.CutSuffix(line, "\r")
	interpreter, arg, _ := strings.Cut(strings.Trim(bare, " \t"), " ")
	interpreter, more, _ := strings.Cut(interpreter, "\t")
	arg = strings.Trim(more+" "+arg, " \t")
	isEnv := filepath.Base(interpreter) == "env" && arg != ""
	switch {
	case interpreter == "":
		return "", errors.New("its #! names no interpreter, such as #!/bin/sh")
	case isDOS && (arg == "" || isEnv):
		return "", errors.New("its #! line ends in a carriage return, " + mend)
	case isDOS:
		doubt = "its #! line ends in a carriage return, " + mend
	}
	if !filepath.IsAbs(interpreter) {
		interpreter = filepath.Join(dir, interpreter) // as the system does
	}
	if err := checkExecutable(interpreter); err != nil {
		mend := ""
		if path, err := search(commandPath, filepath.Base(interpreter)); err == nil {
			mend = fmt.Sprintf(" (to mend: #!%s)", path)
		}
		return "", fmt.Errorf("its #! names %s: %w%s", interpreter, err, mend)
	}
	if isEnv {
		return doubt, checkEnv(arg, env)
	}
	return doubt, nil
}

// checkEnv looks for the program that env(1) is to find. Options and variables
// of env are left to it.
func checkEnv(arg string, env []string) error {
	words := strings.Fields(strings.TrimPrefix(arg, "-S"))
	if len(words) == 0 || strings.ContainsAny(words[0][:1], "-'\"$\\") || strings.Contains(words[0], "=") {
		return nil
	}
	name := words[0]
	if len(words) > 1 && !strings.HasPrefix(arg, "-S") && runtime.GOOS != "darwin" {
		return fmt.Errorf("its #! has env look for a program called %q, use env -S %s", arg, arg)
	}
	if strings.Contains(name, "/") {
		return nil
	}
	list := pathOf(env)
	if _, err := search(list, name); err != nil {
		if path := elsewhere(name); path != "" {
			return fmt.Errorf("its #! has env look for %s, which is not in PATH=%s (to mend: #!%s, or -env PATH=%s:%[2]s)", name, list, path, filepath.Dir(path))
		}
		return fmt.Errorf("its #! has env look for %s, which is not in PATH=%s (to mend: install it there, or -env PATH=...)", name, list)
	}
	return nil
}
