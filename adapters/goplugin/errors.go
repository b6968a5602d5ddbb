package goplugin

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// errorsMax bounds the patterns that each refusal is matched with; Reva has eleven
// types of errors.
const errorsMax = 100

func (c *compiled) checkErrors(faults *plugin.Faults) {
	if len(c.Errors) > errorsMax {
		faults.Add("spec.goplugin.errors", "has %d patterns; at most %d", len(c.Errors), errorsMax)
		return
	}
	for _, pattern := range slices.Sorted(maps.Keys(c.Errors)) {
		if status := c.Errors[pattern]; status < 400 || status > 599 {
			faults.Add("spec.goplugin.errors."+pattern, "%d is no status of an error; write one from 400 to 599", status)
		}
	}
}

// meant gives a refusal the status that the manifest has for it.
func (c *compiled) meant(err error) error {
	if len(c.Errors) == 0 || err == nil {
		return err
	}
	no, ok := errors.AsType[*plugin.Refusal](err)
	if !ok || no.Status != 0 {
		return err
	}
	subject := no.Code
	if subject == "" {
		subject = no.Message
	}
	no.Status = c.status(subject)
	return err
}

// status returns what the longest pattern that matches has, or 0. A Go type is
// matched with and without the path of its package.
func (c *compiled) status(subject string) (status int) {
	short := subject[strings.LastIndexByte(subject, '/')+1:]
	longest := -1
	for _, pattern := range slices.Sorted(maps.Keys(c.Errors)) {
		if len(pattern) > longest && (matches(pattern, subject) || matches(pattern, short)) {
			longest, status = len(pattern), c.Errors[pattern]
		}
	}
	return status
}

// matches reports that text is pattern, in which * stands for any text.
func matches(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	first, rest := parts[0], parts[1:]
	text, ok := strings.CutPrefix(text, first)
	if len(rest) == 0 {
		return ok && text == ""
	}
	for _, part := range rest[:len(rest)-1] {
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return ok && strings.HasSuffix(text, rest[len(rest)-1])
}

// answered makes a refusal of the error that an answer holds, in the JSON of
// gobwire: a text, or {"@type": its Go type, "value": what it is made of}.
func answered(taken []byte) *plugin.Refusal {
	var named struct {
		Type  string         `json:"@type"`
		Value plugin.RawJSON `json:"value"`
	}
	if json.Unmarshal(taken, &named) != nil || named.Type == "" {
		named.Value = taken
	}
	no := &plugin.Refusal{Code: named.Type}
	if json.Unmarshal(named.Value, &no.Message) != nil {
		no.Details = named.Value
		no.Message = "the plugin answered with an error of this type; its content is in details"
	}
	return no
}

// unregistered makes a refusal of an error of which only the type is known.
func unregistered(class string) *plugin.Refusal {
	return &plugin.Refusal{
		Code:    class,
		Message: "the plugin's answer holds a value of this type, most often an error, which it does not register with encoding/gob: what it says stayed in the plugin",
	}
}
