0 messages in 0 streams, 95 rules checked
findings: none
