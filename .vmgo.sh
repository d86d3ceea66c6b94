V=target/release/vilab
$V doctor
time $V up --dataplane kernel labs/figure-11-revisitation.yaml
$V status
$V exec A ping -c1 F; $V exec A hostname; $V down
for l in labs/*.yaml; do VILAB_DATAPLANE=kernel $V test $l; echo "rc $?"; done
