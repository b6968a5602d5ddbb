package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// functions answer a list of arguments.
var functions = map[string]func([]any) (any, error){
	"echo":   func(args []any) (any, error) { return first(args), nil },
	"refuse": func(args []any) (any, error) { return nil, errors.New(fmt.Sprint(first(args))) },
	"exit": func(args []any) (any, error) {
		os.Exit(int(number(args)))
		return nil, nil
	},
	"print": func(args []any) (any, error) {
		fmt.Println(first(args))
		return nil, nil
	},
	"slow": func(args []any) (any, error) {
		if len(args) > 1 {
			fmt.Println(args[1])
		}
		time.Sleep(time.Duration(number(args)) * time.Millisecond)
		return first(args), nil
	},
}

func first(args []any) any {
	if len(args) == 0 {
		return nil
	}
	return args[0]
}

func number(args []any) float64 {
	n, _ := first(args).(float64)
	return n
}

type reply struct {
	State  bool `json:"state"`
	Result any  `json:"result"`
}

// invoke answers one message to a function.
func invoke(call func([]any) (any, error), body []byte) []byte {
	var request struct {
		Func string            `json:"func"`
		Arg  []json.RawMessage `json:"arg"`
	}
	r := reply{State: true}
	err := json.Unmarshal(body, &request)
	switch {
	case err != nil:
	case request.Func == "Exec":
		r.Result, err = execute(call, request.Arg)
	case request.Func == "IsAggregate":
		r.Result = false
	case request.Func == "Validate":
		r.Result = ""
	default:
		err = errors.New("invalid func " + request.Func)
	}
	if err != nil {
		r = reply{Result: err.Error()}
	}
	out, err := json.Marshal(r)
	if err != nil {
		return nil
	}
	return out
}

// execute calls with all arguments but the last, which is the context.
func execute(call func([]any) (any, error), raw []json.RawMessage) (any, error) {
	if len(raw) == 0 {
		return nil, errors.New("exec function context not found")
	}
	var text string
	var context struct{ RuleID, OpID string }
	last := raw[len(raw)-1]
	if json.Unmarshal(last, &text) != nil || json.Unmarshal([]byte(text), &context) != nil {
		return nil, fmt.Errorf("cannot parse function context %s", last)
	}
	if context.RuleID == "" || context.OpID == "" {
		return nil, fmt.Errorf("invalid arg %v, ruleId, opId are required", context)
	}
	args := make([]any, len(raw)-1)
	for n := range args {
		if err := json.Unmarshal(raw[n], &args[n]); err != nil {
			return nil, err
		}
	}
	return call(args)
}
