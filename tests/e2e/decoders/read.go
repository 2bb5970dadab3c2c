// Reads each message of a JSON list of texts as a Go server does, whose decoder ignores case, and prints what it reads.
package main

import (
	"encoding/json"
	"os"
)

type params struct {
	Name           any `json:"name"`
	URI            any `json:"uri"`
	Arguments      any `json:"arguments"`
	InputResponses any `json:"inputResponses"`
	RequestState   any `json:"requestState"`
	Meta           any `json:"_meta"`
}

func main() {
	var texts []string
	if err := json.NewDecoder(os.Stdin).Decode(&texts); err != nil {
		panic(err)
	}
	read := make([]*params, len(texts))
	for i, text := range texts {
		var message struct {
			Params *params `json:"params"`
		}
		if json.Unmarshal([]byte(text), &message) == nil {
			read[i] = message.Params
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(read); err != nil {
		panic(err)
	}
}
