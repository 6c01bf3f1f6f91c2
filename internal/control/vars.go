package control

import (
	"strings"
)

// Vars collects the variables of a request in the form in which they travel:
// each NAME=VALUE with a NUL behind it. Its zero value is empty.
type Vars struct {
	b    []byte
	last int // where the variable added last begins
	over bool
}

// Reset empties v and keeps its memory.
func (v *Vars) Reset() {
	v.b = v.b[:0]
	v.over = false
}

// Add adds one variable. Its parts hold no NUL, and the name no "=".
func (v *Vars) Add(name, value string) {
	v.last = len(v.b)
	v.b = append(v.b, name...)
	v.value("=", value)
}

// AddHeader adds HTTP_ and the field's name in upper case, "-" become "_"
// (RFC 3875 § 4.1.18).
func (v *Vars) AddHeader(name, value string) {
	v.last = len(v.b)
	v.b = append(v.b, "HTTP_"...)
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z':
			c -= 'a' - 'A'
		case c == '-':
			c = '_'
		}
		v.b = append(v.b, c)
	}
	v.value("=", value)
}

// Extend appends to the value of the variable added last.
func (v *Vars) Extend(sep, value string) {
	v.b = v.b[:len(v.b)-1]
	v.value(sep, value)
}

func (v *Vars) value(sep, value string) {
	v.b = append(v.b, sep...)
	v.b = append(v.b, value...)
	v.b = append(v.b, 0)
	if len(v.b)-v.last > MaxVar || len(v.b) > MaxVars {
		v.over = true
	}
}

// TooLarge tells whether the monitor would refuse v for its size.
func (v *Vars) TooLarge() bool { return v.over }

// Bytes gives the variables, each NAME=VALUE with a NUL behind it.
func (v *Vars) Bytes() []byte { return v.b }

// checkVars takes the variables of a start message apart and appends them to
// env.
func checkVars(env []string, vars string, names *Names) ([]string, error) {
	if len(vars) > MaxVars {
		return env, breach("%d bytes of variables", len(vars))
	}
	for len(vars) > 0 {
		one, rest, ok := strings.Cut(vars, "\x00")
		if !ok {
			return env, breach("variable without an end")
		}
		if len(one)+1 > MaxVar {
			return env, breach("variable of %d bytes", len(one)+1)
		}
		if name, _, ok := strings.Cut(one, "="); !ok || !names.Allow(name) {
			return env, breach("variable %.64q", name)
		}
		env = append(env, one)
		vars = rest
	}
	return env, nil
}
